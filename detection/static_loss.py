"""The loss of the package's YOLOs with shapes that do not depend on values, for GPUs.

The package's loss selects the pairs of a box and an anchor inside it, and the anchors that are assigned to a box. The
sizes of these selections are known only on the device, so the host waits for them. It also waits while constants and
the anchors, which are made on the host in every step, are copied to the device. Here nothing is selected: all pairs
are computed and masked, and the losses of boxes and edges are computed for all anchors and set to 0 off the
foreground. Boxes are padded on the host before they are sent, and constants are sent once per image size.

The loss and its gradients are the package's up to the order in which values are added. The assignment applies the
package's operations to the same values, so that ties are broken in the same way.

Memory: B images, M boxes (the most in one image of the batch) and A anchors make B * M * A pairs. With 16 images, 40
boxes and 8,400 anchors (images of 640 x 640 pixels) there are 5,376,000 pairs, 21.5 MB in each float32 tensor. With 3
classes and 220 boxes in all, the loss and its gradients take 367 MB at their peak and the package's 205 MB, measured on
a CPU.

Of the operations that `torch.use_deterministic_algorithms` lists, only `gather` is used on the device, where no
gradient is computed. The package gathers two bins for each edge, and the gradient of that adds by a scatter; here all
bins are added with weights.

Import `detection.detector` first, because it keeps the package offline.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from ultralytics.utils.loss import BboxLoss, v8DetectionLoss
from ultralytics.utils.metrics import bbox_iou
from ultralytics.utils.ops import xywh2xyxy, xyxy2xywh
from ultralytics.utils.tal import TaskAlignedAssigner, bbox2dist, make_anchors


def padded_boxes(image: Tensor, classes: Tensor, boxes: Tensor, images: int) -> Tensor:
    """Return the boxes of a batch per image, (B, M, 5): class, centre x and y, width, height; M is at least 1.

    Rows after the last box of an image are 0.

    Args:
        image: (N,) index of the image of each box, ascending.
        classes: (N, 1) indices of classes.
        boxes: (N, 4) centre x and y, width and height as fractions of the image.
        images: B.
    """
    image = image.view(-1).long()
    counts = torch.bincount(image, minlength=images)
    row = torch.arange(len(image)) - (counts.cumsum(0) - counts)[image]
    padded = boxes.new_zeros(images, max(1, int(counts.max())), 5)
    padded[image, row] = torch.cat([classes.view(-1, 1).to(boxes.dtype), boxes], dim=1)
    return padded


class DenseAssigner(TaskAlignedAssigner):
    """Assigns boxes to anchors as its base class does, with all pairs of a box and an anchor computed."""

    def select_candidates_in_gts(self, xy_centers: Tensor, gt_bboxes: Tensor, mask_gt: Tensor, eps: float = 1e-9):
        """Return whether each anchor (A, 2) is inside each box (B, M, 4), bool (B, M, A).

        The sides of a box count as at least `stride_val` pixels. The caller masks rows of padding by `mask_gt`.
        """
        centres, sides = xyxy2xywh(gt_bboxes).split(2, dim=-1)
        corners = xywh2xyxy(torch.cat([centres, sides.clamp(min=self.stride_val)], dim=-1)).unsqueeze(2)
        inside = (xy_centers - corners[..., :2] > eps) & (corners[..., 2:] - xy_centers > eps)
        return inside[..., 0] & inside[..., 1]

    def get_box_metrics(
        self, pd_scores: Tensor, pd_bboxes: Tensor, gt_labels: Tensor, gt_bboxes: Tensor, mask_gt: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the alignment and the overlap of each pair, both (B, M, A) and 0 off `mask_gt` (B, M, A)."""
        candidates = mask_gt.bool()
        labels = gt_labels.long().expand(-1, -1, pd_scores.shape[1])
        scores = pd_scores.transpose(1, 2).gather(1, labels)
        overlaps = self.iou_calculation(gt_bboxes.unsqueeze(2), pd_bboxes.unsqueeze(1))
        alignment = scores.pow(self.alpha) * overlaps.pow(self.beta)
        return torch.where(candidates, alignment, 0.0), torch.where(candidates, overlaps, 0.0)

    def select_topk_candidates(self, metrics: Tensor, topk_mask: Tensor | None = None) -> Tensor:
        """Return int8 (B, M, A): 1 for the `topk` anchors with the best `metrics` of each row.

        The caller masks rows of padding, so `topk_mask` is not needed.
        """
        best = metrics.topk(self.topk, dim=-1).indices
        # Filled with a scalar, which needs no other algorithm to be deterministic; the package adds.
        return torch.zeros_like(metrics, dtype=torch.int8).scatter_(-1, best, 1)


class DenseBoxLoss(BboxLoss):
    """The losses of boxes (CIoU) and of their edges (DFL, or L1 without distributions), computed for all anchors."""

    def forward(
        self,
        pred_dist: Tensor,
        pred_bboxes: Tensor,
        anchor_points: Tensor,
        target_bboxes: Tensor,
        target_scores: Tensor,
        target_scores_sum: Tensor,
        fg_mask: Tensor,
        imgsz: Tensor,
        stride: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return both losses, weighted by `target_scores`, which are 0 off the foreground.

        Predictions have to be finite off the foreground, too, for their gradients to be 0 there.
        """
        weight = target_scores.sum(-1, keepdim=True)
        box = 1.0 - bbox_iou(pred_bboxes, target_bboxes, xywh=False, CIoU=True)
        if self.dfl_loss:
            bins = self.dfl_loss.reg_max
            edges = bbox2dist(anchor_points, target_bboxes, bins - 1).unsqueeze(-1)  # (B, A, 4, 1)
            # An edge between two bins has both their shares, by its distance to each.
            shares = (1 - (torch.arange(bins, dtype=edges.dtype, device=edges.device) - edges).abs()).clamp_(min=0)
            edge = -(pred_dist.unflatten(-1, (4, bins)).log_softmax(-1) * shares).sum(-1)
        else:
            fraction = stride / imgsz.flip(0).repeat(2)  # of the width and height of the image
            edge = ((pred_dist - bbox2dist(anchor_points, target_bboxes)) * fraction).abs()
        edge = edge.mean(-1, keepdim=True)
        return (box * weight).sum() / target_scores_sum, (edge * weight).sum() / target_scores_sum


class StaticDetectionLoss(v8DetectionLoss):
    """The loss of its base class, from a batch whose boxes are in `padded`, as `padded_boxes` returns them."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__(model)
        names = ("topk", "topk2", "num_classes", "alpha", "beta", "stride", "eps")
        self.assigner = DenseAssigner(**{name: getattr(self.assigner, name) for name in names})
        self.bbox_loss = DenseBoxLoss(self.reg_max)
        self._grid: tuple[Any, ...] = (None,)

    def loss(self, preds: Mapping[str, Any], batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the losses of boxes, classes and edges, summed over the images, and their means by name."""
        edges, logits = (preds[name].transpose(1, 2).contiguous() for name in ("boxes", "scores"))
        anchors, strides, sides = self._grid_of(preds["feats"])
        labels, boxes = batch["padded"].split((1, 4), dim=2)
        boxes = xywh2xyxy(boxes * sides.flip(0).repeat(2))
        present = boxes.sum(2, keepdim=True) > 0
        with torch.no_grad():
            found = (self.bbox_decode(anchors, edges) * strides).type(boxes.dtype)
            _, true_boxes, true_scores, foreground, _ = self.assigner(
                logits.sigmoid(), found, anchors * strides, labels, boxes, present
            )
            total = true_scores.sum().clamp_(min=1)
        classes = self.bce(logits, true_scores.to(logits.dtype))
        if self.class_weights is not None:
            classes = classes * self.class_weights
        # Before they are decoded: behind a NaN or infinite value, a gradient of 0 becomes NaN.
        edges = torch.where(foreground.unsqueeze(-1), edges, 0.0)
        decoded, true_boxes = self.bbox_decode(anchors, edges), true_boxes / strides
        box, edge = self.bbox_loss(edges, decoded, anchors, true_boxes, true_scores, total, foreground, sides, strides)
        parts = torch.stack([box * self.hyp.box, classes.sum() / total * self.hyp.cls, edge * self.hyp.dfl])
        return parts * len(logits), dict(zip(self.loss_names, parts.detach(), strict=True))

    def _grid_of(self, levels: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the anchors (A, 2) in strides, the strides (A, 1), and the height and width of the images (2,).

        Those of the last image size are kept, because making them copies from the host to the device.
        """
        first, strides = levels[0], self.assigner.stride
        key = ([level.shape[2:] for level in levels], first.dtype, first.device)
        if self._grid[0] != key:
            sides = torch.tensor([side * strides[0] for side in first.shape[2:]], dtype=first.dtype)
            self._grid = (key, *make_anchors(levels, strides), sides.to(first.device))
        return self._grid[1:]
