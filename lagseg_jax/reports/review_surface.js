// Shows the surface of the prediction in 3D: lit points near the faces of its voxels, to be turned.
"use strict";
const surface = {
  canvas: find("surface"), yaw: 0.5, pitch: 0.3, points: new Float32Array(0), reach: 1,
};
const STEP_MM = 1; // between points; closer ones would not be told apart
const SIDES = {R: [1, 0, 0], L: [-1, 0, 0], A: [0, 1, 0], P: [0, -1, 0], S: [0, 0, 1], I: [0, 0, -1]};
const offset = (at) => at[0] * strides[0] + at[1] * strides[1] + at[2];
const holds = (at) => at.every((index, axis) => index >= 0 && index < size[axis]) &&
  (masks[offset(at)] & PREDICTION) !== 0;
/** A direction of the volume (slice, row, column) in RAS mm. */
const direction = (way) => data.affine.map((row) => row[0] * way[0] + row[1] * way[1] + row[2] * way[2]);
const length = (vector) => Math.hypot(...vector);

/** The indices (slice, row, column) of a voxel from its offset. */
const indices = (at) => [Math.floor(at / strides[0]), Math.floor(at / strides[1]) % size[1],
  at % size[2]];

/** The prediction in its box and 3 voxels around it, blurred by a Gaussian of 1 voxel: 0 to 1. */
function blurredPrediction() {
  let low = [...size], high = [0, 0, 0];
  for (let from = 0; from < voxels; from++) {
    if (!(masks[from] & PREDICTION)) continue;
    const at = indices(from);
    low = low.map((old, axis) => Math.min(old, at[axis] - 3));
    high = high.map((old, axis) => Math.max(old, at[axis] + 4));
  }
  const [slices, rows, columns] = high.map((end, axis) => end - low[axis]);
  const steps = [rows * columns, columns, 1];
  let values = new Float32Array(slices * steps[0]);
  for (let i = 0; i < values.length; i++) {
    const at = [Math.floor(i / steps[0]), Math.floor(i / columns) % rows, i % columns];
    values[i] = +holds(at.map((index, axis) => index + low[axis]));
  }
  for (const step of steps) {
    const v = values;
    values = new Float32Array(v.length); // at the ends, in the margin, it stays 0
    for (let i = 2 * step; i < v.length - 2 * step; i++) {
      values[i] = (6 * v[i] + 4 * (v[i - step] + v[i + step]) + v[i - 2 * step] + v[i + 2 * step]) / 16;
    }
  }
  return {low, steps, values};
}

/** Value and slope of a blurred prediction between the voxels around a place. */
function valueAndSlope({low, steps, values}, place) {
  const base = place.map(Math.floor), slope = [0, 0, 0];
  let value = 0;
  for (let corner = 0; corner < 8; corner++) {
    const ends = [corner & 1, corner >> 1 & 1, corner >> 2];
    const at = ends.reduce((sum, end, a) => sum + (base[a] + end - low[a]) * steps[a], 0);
    const near = ends.map((end, a) => end ? place[a] - base[a] : 1 - place[a] + base[a]);
    value += values[at] * near[0] * near[1] * near[2];
    slope[0] += (ends[0] ? 1 : -1) * values[at] * near[1] * near[2];
    slope[1] += (ends[1] ? 1 : -1) * values[at] * near[0] * near[2];
    slope[2] += (ends[2] ? 1 : -1) * values[at] * near[0] * near[1];
  }
  return {value, slope};
}

/**
 * Points of a smooth surface: x, y, z and the normal, RAS mm.
 *
 * They lie on the faces between prediction and background, and go from there, by half a voxel at
 * most, to where the blurred prediction is one half: nothing thin or small is lost.
 */
function surfacePoints() {
  const found = [], blurred = blurredPrediction();
  const spacing = [0, 1, 2].map((axis) => length(direction([0, 1, 2].map((a) => +(a === axis)))));
  const parts = spacing.map((mm) => Math.max(1, Math.round(mm / STEP_MM)));
  for (let from = 0; from < voxels; from++) {
    if (!(masks[from] & PREDICTION)) continue;
    const at = indices(from);
    for (let axis = 0; axis < 3; axis++) {
      for (const way of [-1, 1]) {
        const next = [...at];
        next[axis] += way;
        if (holds(next)) continue;
        for (const place of placesOnFace(at, axis, way, parts)) {
          const {value, slope} = valueAndSlope(blurred, place), steep = length(slope);
          const far = steep && clamp((0.5 - value) / steep, -0.5, 0.5) / steep;
          const normal = direction(slope.map((part, a) => -part / spacing[a] ** 2));
          found.push(...position(place.map((x, a) => x + far * slope[a])), ...unitVector(normal));
        }
      }
    }
  }
  return new Float32Array(found);
}

function placesOnFace(at, axis, way, parts) {
  const [first, second] = [0, 1, 2].filter((other) => other !== axis);
  const places = [];
  for (let i = 0; i < parts[first]; i++) {
    for (let j = 0; j < parts[second]; j++) {
      const place = [...at];
      place[axis] += way / 2;
      place[first] += (i + 0.5) / parts[first] - 0.5;
      place[second] += (j + 0.5) / parts[second] - 0.5;
      places.push(place);
    }
  }
  return places;
}

function unitVector(vector) {
  const long = length(vector) || 1;
  return vector.map((part) => part / long);
}

/** The directions to the right of the screen, up, and towards the viewer, in RAS. */
function axes() {
  const {yaw, pitch} = surface;
  const right = [-Math.cos(yaw), -Math.sin(yaw), 0];
  const front = [-Math.sin(yaw), Math.cos(yaw), 0]; // at 0, the viewer stands before the patient
  const near = [front[0] * Math.cos(pitch), front[1] * Math.cos(pitch), Math.sin(pitch)];
  const up = [-front[0] * Math.sin(pitch), -front[1] * Math.sin(pitch), Math.cos(pitch)];
  return [right, up, near];
}

function drawSurface() {
  const {canvas, points, reach} = surface;
  const ratio = window.devicePixelRatio || 1;
  const side = Math.round(Math.min(canvas.parentElement.clientWidth, 420) * ratio);
  if (!side) return; // not laid out; a resize follows
  canvas.width = side;
  canvas.height = side;
  const scale = surface.scale = side / 2 / reach;
  const [right, up, near] = axes();
  const picture = new ImageData(side, side), out = new Uint32Array(picture.data.buffer);
  const depth = new Float32Array(side * side).fill(-Infinity);
  const half = Math.max(1, Math.ceil(STEP_MM * scale * 0.7));
  const dot = (i, axis) => points[i] * axis[0] + points[i + 1] * axis[1] + points[i + 2] * axis[2];
  for (let i = 0; i < points.length; i += 6) {
    const lit = dot(i + 3, near);
    const x = Math.round(side / 2 + dot(i, right) * scale);
    const y = Math.round(side / 2 - dot(i, up) * scale);
    const z = dot(i, near), light = 0.25 + 0.75 * Math.max(0, lit);
    const colour = (0xff000000 | (30 * light << 16) | (159 * light << 8) | 230 * light) >>> 0;
    for (let v = Math.max(0, y - half); v <= Math.min(side - 1, y + half); v++) {
      for (let u = Math.max(0, x - half); u <= Math.min(side - 1, x + half); u++) {
        if (z > depth[v * side + u]) { depth[v * side + u] = z; out[v * side + u] = colour; }
      }
    }
  }
  const context = canvas.getContext("2d");
  context.putImageData(picture, 0, 0);
  context.font = `600 ${14 * ratio}px sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  for (const [letter, to] of Object.entries(SIDES)) {
    const [x, y, z] = [right, up, near].map((axis) => axis.reduce((sum, a, k) => sum + a * to[k], 0));
    if (z < -0.3) continue;
    context.fillStyle = "#ffffff";
    context.fillText(letter, side / 2 * (1 + 0.93 * x), side / 2 * (1 - 0.93 * y));
  }
}

function turn(yaw, pitch) {
  surface.yaw += yaw;
  surface.pitch = clamp(surface.pitch + pitch, -Math.PI / 2, Math.PI / 2);
  drawSurface();
}

function spin() {
  if (!find("turn").checked) return;
  turn(0.02, 0);
  requestAnimationFrame(spin);
}

document.addEventListener("unpacked", () => {
  const points = surfacePoints();
  let [low, high] = [[Infinity, Infinity, Infinity], [-Infinity, -Infinity, -Infinity]];
  for (let i = 0; i < points.length; i += 6) {
    low = low.map((old, axis) => Math.min(old, points[i + axis]));
    high = high.map((old, axis) => Math.max(old, points[i + axis]));
  }
  for (let i = 0; i < points.length; i++) {
    if (i % 6 < 3) points[i] -= (low[i % 6] + high[i % 6]) / 2;
  }
  const extent = points.length ? length(low.map((edge, axis) => high[axis] - edge)) / 2 : 1;
  Object.assign(surface, {points, reach: extent * 1.2});
  find("solid").textContent = points.length
    ? "Surface of the prediction: drag, or arrow keys, to turn it." : "The prediction is empty.";
  drawSurface();
});
surface.canvas.addEventListener("pointerdown", (event) =>
  surface.canvas.setPointerCapture(event.pointerId));
surface.canvas.addEventListener("pointermove", (event) => {
  if (event.buttons) turn(-event.movementX / 100, event.movementY / 100);
});
surface.canvas.addEventListener("keydown", (event) => {
  const ways = {ArrowLeft: [0.1, 0], ArrowRight: [-0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1]};
  if (!ways[event.key]) return;
  event.preventDefault();
  event.stopPropagation();
  turn(...ways[event.key]);
});
find("turn").addEventListener("change", spin);
window.addEventListener("resize", drawSurface);
