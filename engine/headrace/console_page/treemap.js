// A squarified treemap (Bruls, Huizing, van Wijk: "Squarified Treemaps", 2000): rectangles as near to squares as can be.

// items: [{size}, ...], sizes above 0, largest first. Returns [{item, x, y, width, height}, ...] that fill the rectangle.
export function squarify(items, width, height) {
  const total = items.reduce((sum, item) => sum + item.size, 0);
  const placed = [];
  if (!total || width <= 0 || height <= 0) return placed;
  const scale = (width * height) / total;
  let left = { x: 0, y: 0, width, height };
  let row = [];
  for (const item of items) {
    const side = Math.min(left.width, left.height);
    if (row.length && worst([...row, item], side, scale) > worst(row, side, scale)) {
      left = lay(row, left, scale, placed);
      row = [];
    }
    row.push(item);
  }
  lay(row, left, scale, placed);
  return placed;
}

// The least square of a row's rectangles: its longer side by its shorter one.
function worst(row, side, scale) {
  const areas = row.map((item) => item.size * scale);
  const sum = areas.reduce((a, b) => a + b, 0);
  return Math.max((side * side * Math.max(...areas)) / (sum * sum), (sum * sum) / (side * side * Math.min(...areas)));
}

// Places a row along the shorter side; returns what is left of the rectangle.
function lay(row, left, scale, placed) {
  const area = row.reduce((sum, item) => sum + item.size * scale, 0);
  const upright = left.width >= left.height;
  const depth = upright ? area / left.height : area / left.width;
  let at = upright ? left.y : left.x;
  for (const item of row) {
    const length = (item.size * scale) / depth;
    placed.push(upright
      ? { item, x: left.x, y: at, width: depth, height: length }
      : { item, x: at, y: left.y, width: length, height: depth });
    at += length;
  }
  return upright
    ? { x: left.x + depth, y: left.y, width: left.width - depth, height: left.height }
    : { x: left.x, y: left.y + depth, width: left.width, height: left.height - depth };
}
