// Draws one of the three planes of a case, and follows the pointer on it.
"use strict";
const TRUTH = 1, PREDICTION = 2;
const COLOURS = {[TRUTH]: "#56B4E9", [PREDICTION]: "#E69F00"}; // as in the overlay pictures

class Picture {
  constructor(view, figure) {
    Object.assign(this, {view, figure, zoom: 1, centre: [0.5, 0.5]});
    [this.across, this.down, this.along] = view.axes;
    [this.count, this.rows, this.columns] = view.axes.map((axis) => size[axis]);
    this.canvas = figure.querySelector("canvas");
    this.slider = figure.querySelector("input");
    this.caption = figure.querySelector("output");
    this.bar = figure.querySelector(".bar");
    this.slider.max = this.count - 1;
    this.buffer = document.createElement("canvas");
    this.buffer.width = this.columns;
    this.buffer.height = this.rows;
    this.pixels = new ImageData(this.columns, this.rows);
    this.listen();
  }

  get slice() { return state.at[this.across]; }

  go(number) {
    state.at[this.across] = clamp(Math.round(number), 0, this.count - 1);
    drawAll();
  }

  /** Offset in the volume of the first voxel of a row of the picture. */
  start(row) {
    const stored = this.view.upturned ? this.rows - 1 - row : row;
    return this.slice * strides[this.across] + stored * strides[this.down];
  }

  draw() {
    this.fill();
    const ratio = window.devicePixelRatio || 1;
    const [, rowMm, columnMm] = this.view.spacing;
    const width = this.canvas.parentElement.clientWidth;
    if (!width) return; // not laid out; a resize follows
    const high = width * (this.rows * rowMm) / (this.columns * columnMm);
    const height = Math.min(high, Math.max(220, window.innerHeight * 0.7));
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.canvas.style.height = `${height}px`;
    // Device pixels per mm, so that the whole picture fits at zoom 1.
    const fit = Math.min(width / (this.columns * columnMm), height / (this.rows * rowMm));
    const scale = fit * ratio * this.zoom;
    this.step = [scale * columnMm, scale * rowMm]; // of one pixel of the picture
    this.origin = [
      this.canvas.width / 2 - this.centre[0] * this.columns * this.step[0],
      this.canvas.height / 2 - this.centre[1] * this.rows * this.step[1],
    ];
    const context = this.canvas.getContext("2d");
    context.setTransform(this.step[0], 0, 0, this.step[1], ...this.origin);
    context.drawImage(this.buffer, 0, 0);
    const areas = [TRUTH, PREDICTION].map((bit) => this.contour(context, bit));
    context.setTransform(1, 0, 0, 1, 0, 0);
    this.ticks(context, ratio);
    this.tell(areas, scale / ratio);
  }

  fill() {
    const out = new Uint32Array(this.pixels.data.buffer);
    const table = new Uint32Array(256).map((_, level) => {
      const value = Math.round(clamp((level - state.low) / (state.high - state.low), 0, 1) * 255);
      return 0xff000000 | (value * 0x10101); // opaque, and equal in all three colours
    });
    const step = strides[this.along];
    for (let row = 0, i = 0; row < this.rows; row++) {
      for (let x = 0, from = this.start(row); x < this.columns; x++, from += step, i++) {
        out[i] = table[grey[from]];
        if (state.heat && heat[from]) out[i] = warm(out[i] & 255, heat[from] / data.levels);
      }
    }
    this.buffer.getContext("2d").putImageData(this.pixels, 0, 0);
  }

  /** Draws the outline of a mask along the edges of its pixels; returns its area in mm². */
  contour(context, bit) {
    const step = strides[this.along];
    const inside = (row, x) => row >= 0 && x >= 0 && row < this.rows && x < this.columns &&
      (masks[this.start(row) + x * step] & bit) !== 0;
    let area = 0;
    context.beginPath();
    for (let row = 0; row <= this.rows; row++) {
      for (let x = 0; x <= this.columns; x++) {
        const here = inside(row, x);
        area += here;
        if (here !== inside(row, x - 1)) { context.moveTo(x, row); context.lineTo(x, row + 1); }
        if (here !== inside(row - 1, x)) { context.moveTo(x, row); context.lineTo(x + 1, row); }
      }
    }
    if (state.shown & bit) {
      context.save();
      context.setTransform(1, 0, 0, 1, 0, 0); // lines are equally wide in both directions
      context.strokeStyle = COLOURS[bit];
      context.lineWidth = (bit === TRUTH ? 3 : 1.5) * (window.devicePixelRatio || 1);
      context.stroke();
      context.restore();
    }
    return area * this.view.spacing[1] * this.view.spacing[2];
  }

  /** Marks at the edges where the two other planes cut this one. */
  ticks(context, ratio) {
    const {width, height} = this.canvas, long = 10 * ratio;
    const [x, y] = this.place(state.at);
    context.fillStyle = "#ffffffb0";
    for (const edge of [0, width - long]) context.fillRect(edge, y - ratio / 2, long, ratio);
    for (const edge of [0, height - long]) context.fillRect(x - ratio / 2, edge, ratio, long);
  }

  /** Device pixel of the middle of a voxel. */
  place(at) {
    const row = this.view.upturned ? this.rows - 1 - at[this.down] : at[this.down];
    return [(at[this.along] + 0.5) * this.step[0] + this.origin[0],
      (row + 0.5) * this.step[1] + this.origin[1]];
  }

  tell(areas, scale) {
    const middle = size.map((length) => (length - 1) / 2);
    middle[this.across] = this.slice;
    const where = `${this.view.plane} slice ${this.slice} of 0 to ${this.count - 1}, ` +
      `centre ${millimetres(middle)}`;
    const names = data.truth ? ["truth", "prediction"] : ["", "prediction"];
    const found = names.map((name, i) => name && `${name} ${areas[i].toFixed(0)} mm²`);
    const text = [where, ...found.filter(Boolean)].join("; ");
    this.caption.textContent = text;
    this.slider.value = this.slice;
    this.slider.setAttribute("aria-valuetext", text);
    const mm = [200, 100, 50, 20, 10, 5, 2].find((bar) =>
      bar * scale <= this.canvas.parentElement.clientWidth / 3) || 1;
    this.bar.style.width = `${mm * scale}px`;
    this.bar.textContent = `${mm} mm`;
  }

  zoomTo(zoom) {
    this.zoom = clamp(zoom, 1, 16);
    if (this.zoom === 1) this.centre = [0.5, 0.5];
    this.canvas.classList.toggle("zoomed", this.zoom > 1);
    this.draw();
  }

  listen() {
    this.slider.addEventListener("input", () => this.go(Number(this.slider.value)));
    this.canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const way = Math.sign(event.deltaY);
      if (event.ctrlKey) this.zoomTo(this.zoom * (way > 0 ? 0.8 : 1.25));
      else this.go(this.slice + way);
    }, {passive: false});
    this.canvas.addEventListener("pointerdown", (event) => {
      active = this;
      this.canvas.setPointerCapture(event.pointerId);
      if (this.zoom === 1 && !event.shiftKey) this.point(event);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (!event.buttons) return;
      if (event.shiftKey) {
        setWindow((state.low + state.high) / 2 - event.movementY,
          state.high - state.low + event.movementX);
      } else if (this.zoom > 1) {
        const ratio = window.devicePixelRatio || 1;
        const moved = [event.movementX, event.movementY];
        const length = [this.columns, this.rows];
        this.centre = this.centre.map((old, i) =>
          clamp(old - moved[i] * ratio / (this.step[i] * length[i]), 0, 1));
        this.draw();
      } else this.point(event);
    });
  }

  /** Moves the two other planes to the voxel under the pointer. */
  point(event) {
    const ratio = this.canvas.width / this.canvas.clientWidth;
    const x = Math.floor((event.offsetX * ratio - this.origin[0]) / this.step[0]);
    const row = Math.floor((event.offsetY * ratio - this.origin[1]) / this.step[1]);
    state.at[this.along] = clamp(x, 0, this.columns - 1);
    const stored = clamp(row, 0, this.rows - 1);
    state.at[this.down] = this.view.upturned ? this.rows - 1 - stored : stored;
    drawAll();
  }
}

/** Grey and magenta mixed, the more of it the more probable, as a pixel of an ImageData. */
function warm(value, chance) {
  const part = 0.6 * Math.sqrt(chance);
  const [r, g, b] = [235, 20, 140].map((to) => Math.round(value * (1 - part) + to * part));
  return (0xff000000 | (b << 16) | (g << 8) | r) >>> 0;
}
