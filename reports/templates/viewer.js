// The viewer shows every variant of a test image in a separate pane, or two variants with a slider between them. All
// panes show the same part of the image, the view, so that they zoom and move together.
const SVG = "http://www.w3.org/2000/svg";
const viewer = JSON.parse(document.getElementById("viewer-data").textContent);

function startViewer(root, { variants, classes, best, scenes }) {
  const at = (name) => root.querySelector(`[data-is="${name}"]`);
  const state = {
    scene: 0, zoom: 1, x: 0.5, y: 0.5, mode: "panes", split: 0.5, left: variants[0], right: best,
    boxes: new Set(variants), truth: true, detections: true, names: false, score: Number(at("score").value),
  };

  const scene = () => scenes[state.scene];
  const draw = (name, attributes, parent) => {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    parent.append(element);
    return element;
  };

  function outcome(variant) {
    const detections = scene().panes[variant].detections.filter((item) => item[5] >= state.score);
    const found = new Set(detections.map((item) => item[6]).filter((index) => index >= 0));
    const missed = scene().truth.filter((_, index) => !found.has(index));
    return { detections, found, missed, wrong: detections.filter((item) => item[6] < 0).length };
  }

  function sentence(variant) {
    const { found, missed, wrong } = outcome(variant);
    const counts = new Map();
    for (const box of missed) counts.set(classes[box[4]], (counts.get(classes[box[4]]) ?? 0) + 1);
    const list = [...counts].map(([name, count]) => (count > 1 ? `${count} ${name}` : name)).join(", ");
    const total = scene().truth.length;
    return `${found.size} of ${total} detected` + (list ? `, missed: ${list}` : "") + (wrong ? `; ${wrong} false` : "");
  }

  function drawBox(parent, [x, y, width, height], kind) {
    for (const line of ["under", "over"]) draw("rect", { class: `${kind} ${line}`, x, y, width, height }, parent);
  }

  function drawPane(variant, svg) {
    const [width, height] = scene().size;
    svg.replaceChildren();
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `Image ${scene().name}, ${variant}: ${sentence(variant)}`);
    draw("image", { href: scene().panes[variant].image, width, height, preserveAspectRatio: "none" }, svg);
    if (!state.boxes.has(variant)) return;
    const { detections, found } = outcome(variant);
    const size = (12 * width) / state.zoom / Math.max(svg.clientWidth, 160);
    const label = (text, [x, y, , h], kind) => {
      const above = y > 1.3 * size;
      const left = Math.max(0, Math.min(x, width - 0.6 * size * text.length));
      const place = { x: left, y: above ? y - 0.35 * size : y + h + size, "font-size": size, class: kind };
      draw("text", place, svg).textContent = text;
    };
    if (state.truth) scene().truth.forEach((box, index) => drawBox(svg, box, found.has(index) ? "hit" : "miss"));
    if (state.detections) for (const item of detections) drawBox(svg, item, item[6] < 0 ? "false" : "correct");
    if (!state.names) return;
    if (state.detections) {
      for (const item of detections) {
        label(`${classes[item[4]]} ${item[5].toFixed(2)}`, item, item[6] < 0 ? "false" : "correct");
      }
    }
    if (state.truth) {
      scene().truth.forEach((box, index) => found.has(index) || label(`${classes[box[4]]} missed`, box, "miss"));
    }
  }

  function clampView() {
    state.zoom = Math.min(12, Math.max(1, state.zoom));
    const half = 0.5 / state.zoom;
    state.x = Math.min(1 - half, Math.max(half, state.x));
    state.y = Math.min(1 - half, Math.max(half, state.y));
  }

  function applyView() {
    clampView();
    const [width, height] = scene().size;
    const [w, h] = [width / state.zoom, height / state.zoom];
    const box = `${state.x * width - w / 2} ${state.y * height - h / 2} ${w} ${h}`;
    for (const svg of root.querySelectorAll("svg.view")) {
      svg.setAttribute("viewBox", box);
      svg.style.aspectRatio = `${width} / ${height}`;
      for (const text of svg.querySelectorAll("text")) {
        text.setAttribute("font-size", (12 * w) / Math.max(svg.clientWidth, 160));
      }
    }
    at("zoom").textContent = `${state.zoom.toFixed(1)}×`;
    root.classList.toggle("zoomed", state.zoom > 1);
  }

  function show() {
    const { name, condition } = scene();
    at("scene").value = String(state.scene);
    at("name").textContent = `${name}${condition ? `, ${condition}` : ""} (${state.scene + 1} of ${scenes.length})`;
    at("panes").hidden = state.mode !== "panes";
    at("slider").hidden = state.mode !== "slider";
    for (const button of root.querySelectorAll("[data-mode]")) {
      button.setAttribute("aria-pressed", String(button.dataset.mode === state.mode));
    }
    if (state.mode === "panes") {
      for (const figure of root.querySelectorAll("[data-variant]")) {
        drawPane(figure.dataset.variant, figure.querySelector("svg"));
        figure.querySelector("[data-is=count]").textContent = sentence(figure.dataset.variant);
      }
    } else {
      drawPane(state.left, at("left-view"));
      drawPane(state.right, at("right-view"));
      at("left-count").textContent = sentence(state.left);
      at("right-count").textContent = sentence(state.right);
      at("stage").style.setProperty("--split", `${100 * state.split}%`);
    }
    at("score-value").textContent = state.score.toFixed(2);
    applyView();
  }

  // Zoom by `factor` around a point of the view, given as fractions of a pane.
  function zoom(factor, px = 0.5, py = 0.5) {
    const before = state.zoom;
    state.zoom = Math.min(12, Math.max(1, before * factor));
    state.x += (px - 0.5) * (1 / before - 1 / state.zoom);
    state.y += (py - 0.5) * (1 / before - 1 / state.zoom);
    applyView();
  }

  const go = (step) => {
    state.scene = (state.scene + step + scenes.length) % scenes.length;
    show();
  };
  const move = (x, y) => {
    state.x += x / state.zoom;
    state.y += y / state.zoom;
    applyView();
  };
  const reset = () => {
    Object.assign(state, { zoom: 1, x: 0.5, y: 0.5 });
    applyView();
  };

  for (const variant of variants) {
    const figure = at("pane").content.firstElementChild.cloneNode(true);
    figure.dataset.variant = variant;
    figure.querySelector("[data-is=title]").textContent = variant;
    figure.querySelector("input").addEventListener("change", ({ target }) => {
      state.boxes[target.checked ? "add" : "delete"](variant);
      show();
    });
    at("panes").append(figure);
    for (const side of ["left", "right"]) at(side).append(new Option(variant, variant));
  }
  scenes.forEach(({ name }, index) => at("scene").append(new Option(name, String(index))));
  at("left").value = state.left;
  at("right").value = state.right;

  at("scene").addEventListener("change", ({ target }) => { state.scene = Number(target.value); show(); });
  at("previous").addEventListener("click", () => go(-1));
  at("next").addEventListener("click", () => go(1));
  at("closer").addEventListener("click", () => zoom(1.5));
  at("farther").addEventListener("click", () => zoom(1 / 1.5));
  at("whole").addEventListener("click", reset);
  at("shown").addEventListener("input", ({ target }) => {
    const words = target.value.toLowerCase().split(/[\s,]+/).filter(Boolean);
    for (const figure of root.querySelectorAll("[data-variant]")) {
      figure.hidden = words.length > 0 && !words.some((word) => figure.dataset.variant.toLowerCase().includes(word));
    }
    applyView();
  });
  at("split").addEventListener("input", ({ target }) => { state.split = target.value / 100; show(); });
  at("score").addEventListener("input", ({ target }) => { state.score = Number(target.value); show(); });
  for (const side of ["left", "right"]) {
    at(side).addEventListener("change", ({ target }) => { state[side] = target.value; show(); });
  }
  for (const name of ["truth", "detections", "names"]) {
    at(name).addEventListener("change", ({ target }) => { state[name] = target.checked; show(); });
  }
  for (const button of root.querySelectorAll("[data-mode]")) {
    button.addEventListener("click", () => { state.mode = button.dataset.mode; show(); });
  }

  const keys = {
    "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: reset, n: () => go(1), p: () => go(-1),
    ArrowLeft: () => move(-0.15, 0), ArrowRight: () => move(0.15, 0),
    ArrowUp: () => move(0, -0.15), ArrowDown: () => move(0, 0.15),
  };
  const surface = at("surface");
  surface.addEventListener("keydown", (event) => {
    if (event.target !== surface || event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
    if (event.key.startsWith("Arrow") && state.zoom === 1) return; // arrow keys scroll the page
    keys[event.key]();
    event.preventDefault();
  });
  const place = (event) => {
    const box = event.target.closest("svg.view").getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height, box];
  };
  surface.addEventListener("wheel", (event) => {
    // Without Ctrl, the wheel scrolls the page.
    if (!(event.ctrlKey || event.metaKey) || !event.target.closest("svg.view")) return;
    event.preventDefault();
    const [px, py] = place(event);
    zoom(event.deltaY < 0 ? 1.25 : 0.8, px, py);
  }, { passive: false });
  surface.addEventListener("dblclick", (event) => {
    if (!event.target.closest("svg.view")) return;
    const [px, py] = place(event);
    zoom(2, px, py);
  });
  let drag = null;
  surface.addEventListener("pointerdown", (event) => {
    if (state.zoom === 1 || !event.target.closest("svg.view")) return;
    drag = { x: event.clientX, y: event.clientY, box: place(event)[2] };
    surface.setPointerCapture(event.pointerId);
  });
  surface.addEventListener("pointermove", (event) => {
    if (!drag) return;
    move((drag.x - event.clientX) / drag.box.width, (drag.y - event.clientY) / drag.box.height);
    Object.assign(drag, { x: event.clientX, y: event.clientY });
  });
  for (const end of ["pointerup", "pointercancel"]) surface.addEventListener(end, () => { drag = null; });
  new ResizeObserver(applyView).observe(surface);

  for (const link of document.querySelectorAll("[data-scene]")) {
    const index = scenes.findIndex(({ name }) => name === link.dataset.scene);
    if (index < 0) continue;
    link.hidden = false;
    link.addEventListener("click", () => { state.scene = index; show(); root.scrollIntoView(); });
  }
  show();
}

if (viewer.scenes.length) startViewer(document.getElementById("viewer"), viewer);
