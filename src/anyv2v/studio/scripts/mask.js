// A mask, painted on the first frame in the frame's own pixels; what is painted may change.
//
// value: { frame, to } or nothing; gives "done" with the studio's answer, or "leave".

const frame = h("img", { alt: "The first frame", draggable: "false" });
const canvas = h("canvas", { tabindex: 0, role: "img", "aria-label": "Mask. Paint by dragging; [ and ] change the brush, E erases, Ctrl+Z undoes" });
const ring = h("span", { class: "ring", "aria-hidden": "true" });
const size = h("input", { type: "range", min: 4, max: 200, value: 48, "aria-label": "Brush size", oninput: () => cursor() });
const erase = h("button", { type: "button", class: "plain", "aria-pressed": "false", onclick: () => rub() }, "Erase ", h("kbd", {}, "e"));
const back = h("button", { type: "button", class: "plain", onclick: () => undo() }, icon("undo"), "Undo");
const trouble = h("span", { class: "trouble", role: "alert" });
const board = h("div", { class: "board" }, frame, canvas, ring);
root.append(
  h("div", { class: "room" }, board),
  h("div", { class: "transport" },
    h("label", { class: "brush" }, "Brush", size), erase, back,
    h("button", { type: "button", class: "plain", onclick: () => clear() }, "Clear"), trouble,
    h("span", { class: "gap" }),
    h("button", { type: "button", class: "plain", onclick: () => trigger("leave", {}) }, "Leave"),
    h("button", { type: "button", class: "plain go", onclick: () => keep() }, "Use this mask")));

const pen = canvas.getContext("2d", { willReadFrequently: true });
let strokes = []; // of points in the frame's pixels: { width, rubs, points }
let painting = null; // the address of the frame

function draw(value) {
  appear(value);
  if (value && value.frame !== painting) begin(value.frame);
  painting = value?.frame ?? null;
}

function begin(url) {
  frame.src = url;
  clear();
}

frame.addEventListener("load", () => {
  Object.assign(canvas, { width: frame.naturalWidth, height: frame.naturalHeight });
  board.style.setProperty("--aspect", frame.naturalWidth / frame.naturalHeight);
  size.max = Math.round(Math.max(canvas.width, canvas.height) / 3);
  size.value = Math.round(canvas.width / 10);
  paint();
});

function paint() {
  pen.clearRect(0, 0, canvas.width, canvas.height);
  Object.assign(pen, { lineCap: "round", lineJoin: "round", strokeStyle: "#ff4a3d" });
  strokes.forEach(line);
  back.disabled = !strokes.length;
}

function line({ width, rubs, points }) {
  pen.globalCompositeOperation = rubs ? "destination-out" : "source-over";
  pen.lineWidth = width;
  pen.beginPath();
  pen.moveTo(...points[0]); // round ends make a dot of one point
  points.forEach(([x, y]) => pen.lineTo(x, y));
  pen.stroke();
}

const scale = () => canvas.width / canvas.clientWidth;
const at = (event) => {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) * scale(), (event.clientY - box.top) * scale()];
};

dragged(canvas, (event, stroke) => {
  const made = stroke ?? { width: size.valueAsNumber, rubs: erase.ariaPressed === "true", points: [] };
  if (!stroke) strokes.push(made);
  made.points.push(at(event));
  paint();
  return made;
});

canvas.addEventListener("pointermove", (event) => cursor(event));
canvas.addEventListener("pointerleave", () => { ring.hidden = true; });

function cursor(event) {
  const width = size.valueAsNumber / scale();
  Object.assign(ring.style, { width: `${width}px`, height: `${width}px` });
  if (!event) return;
  const box = canvas.getBoundingClientRect();
  Object.assign(ring.style, { left: `${event.clientX - box.left}px`, top: `${event.clientY - box.top}px` });
  ring.hidden = false;
}

function rub() {
  erase.ariaPressed = String(erase.ariaPressed !== "true");
}

function undo() {
  strokes.pop();
  paint();
}

function clear() {
  strokes = [];
  paint();
}

element.addEventListener("keydown", (event) => {
  const by = { "[": -8, "]": 8 }[event.key];
  if (by) size.value = size.valueAsNumber + by;
  else if (event.key === "e") rub();
  else if (event.key === "z" && (event.ctrlKey || event.metaKey)) undo();
  else if (event.key === "Escape") trigger("leave", {});
  else return;
  event.preventDefault();
  cursor();
});

function fill(where, colour) {
  Object.assign(pen, { globalCompositeOperation: where, fillStyle: colour });
  pen.fillRect(0, 0, canvas.width, canvas.height);
}

// White on black, as masks are.
async function keep() {
  if (!strokes.length) return void (trouble.textContent = "Paint where the frame may change.");
  fill("source-in", "#fff");
  fill("destination-over", "#000");
  const picture = await new Promise((resolve) => { canvas.toBlob(resolve, "image/png"); });
  paint();
  try {
    trouble.textContent = "";
    trigger("done", await send(props.value.to, picture));
  } catch (error) {
    trouble.textContent = error.message;
  }
}

drawn(draw);
