"""FNet and its parts: the LZSC and LCSC coding blocks, the fusion network, the inverse fusion network."""
