// Unpacks the volume of a case, and lets controls and keys move its three planes.
"use strict";
const data = JSON.parse(document.getElementById("content").textContent);
const find = (id) => document.getElementById(id);
const size = data.shape;
const strides = [size[1] * size[2], size[2], 1];
const voxels = size[0] * strides[0];
const grey = new Uint8Array(voxels);
const masks = new Uint8Array(voxels);
const heat = data.probability ? new Uint8Array(voxels) : null;
const state = {at: [...data.start], shown: TRUTH | PREDICTION, heat: false, low: 0, high: 255};
const unit = (data.grey[1] - data.grey[0]) / 255; // of the image, in one of 255 levels
const short = (value) => String(Number(value.toPrecision(4)));
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const pictures = [];

/** RAS position in mm of an index (slice, row, column). */
const position = (at) => data.affine.map((row) =>
  row[0] * at[0] + row[1] * at[1] + row[2] * at[2] + row[3]);
const millimetres = (at) => `(${position(at).map((x) => x.toFixed(1)).join(", ")}) mm RAS`;

function drawAll() {
  pictures.forEach((picture) => picture.draw());
  const level = grey[state.at.reduce((sum, index, axis) => sum + index * strides[axis], 0)];
  find("point").textContent =
    `Voxel at ${millimetres(state.at)}: grey value ${short(data.grey[0] + level * unit)}`;
}

function setWindow(level, width) {
  const half = clamp(width, 2, 510) / 2, middle = clamp(level, 0, 255);
  Object.assign(state, {low: middle - half, high: middle + half});
  find("width").value = 2 * half;
  find("level").value = middle;
  find("window").textContent =
    `window ${short(2 * half * unit)}, level ${short(data.grey[0] + middle * unit)}`;
  pictures.forEach((picture) => picture.draw());
}

function toggle(id) {
  const box = find(id);
  if (box) { box.checked = !box.checked; box.dispatchEvent(new Event("change")); }
}

const scratch = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
async function unpack(file, kind, target, slice) {
  const image = new Image();
  image.src = `data:image/${kind};base64,${file}`;
  await image.decode();
  scratch.canvas.width = size[2];
  scratch.canvas.height = size[1];
  scratch.drawImage(image, 0, 0);
  const {data: bytes} = scratch.getImageData(0, 0, size[2], size[1]);
  for (let i = 0, to = slice * strides[0]; i < strides[0]; i++) target[to + i] = bytes[4 * i];
}

async function unpackAll() {
  const near = [...data.images.keys()].sort((a, b) =>
    Math.abs(a - data.start[0]) - Math.abs(b - data.start[0]));
  for (const slice of near) {
    await unpack(data.masks[slice], "png", masks, slice);
    if (heat) await unpack(data.probability[slice], "png", heat, slice);
    await unpack(data.images[slice], data.kind, grey, slice);
    if (slice === near[0]) drawAll();
  }
  drawAll();
  document.dispatchEvent(new Event("unpacked")); // the surface needs all slices
  document.body.dataset.ready = "yes";
}

document.querySelectorAll(".view").forEach((figure, i) => {
  pictures.push(new Picture(data.views[i], figure));
});
let active = pictures[0]; // the one that keys move
const boxes = {truth: TRUTH, prediction: PREDICTION};
for (const [id, bit] of Object.entries(boxes)) {
  find(id)?.addEventListener("change", (event) => {
    state.shown = event.target.checked ? state.shown | bit : state.shown & ~bit;
    drawAll();
  });
}
find("heat")?.addEventListener("change", (event) => { state.heat = event.target.checked; drawAll(); });
for (const id of ["width", "level"]) {
  find(id).addEventListener("input", () =>
    setWindow(Number(find("level").value), Number(find("width").value)));
}
find("closer").addEventListener("click", () => active.zoomTo(active.zoom * 1.5));
find("farther").addEventListener("click", () => active.zoomTo(active.zoom / 1.5));
find("reset").addEventListener("click", () => {
  pictures.forEach((picture) => picture.zoomTo(1));
  setWindow(127.5, 255);
});
document.querySelectorAll(".view").forEach((figure, i) =>
  figure.addEventListener("focusin", () => { active = pictures[i]; }));

const keys = {
  ArrowUp: () => active.go(active.slice + 1), ArrowDown: () => active.go(active.slice - 1),
  PageUp: () => active.go(active.slice + 5), PageDown: () => active.go(active.slice - 5),
  Home: () => active.go(0), End: () => active.go(active.count - 1),
  "+": () => active.zoomTo(active.zoom * 1.5), "-": () => active.zoomTo(active.zoom / 1.5),
  0: () => find("reset").click(), t: () => toggle("truth"), p: () => toggle("prediction"),
  h: () => toggle("heat"), 1: () => { active = pictures[0]; }, 2: () => { active = pictures[1]; },
  3: () => { active = pictures[2]; },
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const sliding = event.target.type === "range" && event.key.length > 1;
  if (keys[event.key] && !sliding) {
    event.preventDefault();
    keys[event.key]();
  } else if (parent !== window && (event.key.length === 1 || event.key === "Escape")) {
    parent.postMessage({key: event.key}, "*"); // the table of cases around this page
  }
});
window.addEventListener("resize", drawAll);
setWindow(127.5, 255);
unpackAll();
