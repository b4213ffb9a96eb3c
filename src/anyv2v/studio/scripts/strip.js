// The clip as a strip of small pictures, with the span that is edited between two handles.
//
// value: { clip, thumbnails: [url], seconds, fps, start, end }; gives "span" { start, end } in seconds.

const pictures = h("div", { class: "pictures" });
const span = h("div", { class: "span" });
const handles = { start: handle("start", "Begin of the span"), end: handle("end", "End of the span") };
const rail = h("div", { class: "rail" }, pictures, span, handles.start, handles.end);
const said = h("output", { class: "said" });
const whole = h("button", { class: "plain", type: "button", onclick: () => set({ start: 0, end: clip.seconds }, true) }, "Whole clip");
root.append(rail, h("div", { class: "below" }, said, whole));

let clip = null;
let late = 0;

function handle(side, label) {
  return h("div", { class: `handle ${side}`, role: "slider", tabindex: 0, "aria-label": label, "aria-valuemin": 0 });
}

function draw(value) {
  appear(value);
  if (!value) return;
  const other = value.clip !== clip?.clip;
  if (late && !other) return; // what a person has set since is about to be told
  if (other) {
    forget();
    pictures.replaceChildren(...value.thumbnails.map((url) => h("img", { src: url, alt: "", draggable: "false" })));
  }
  clip = { ...value };
  set(value);
}

// To whole frames, at least two of them.
function set(wanted, tell = false) {
  const tick = 1 / clip.fps, round = (time) => Math.round(time * clip.fps) / clip.fps;
  clip.start = clamp(round(wanted.start ?? clip.start), 0, clip.seconds - 2 * tick);
  clip.end = clamp(round(wanted.end ?? clip.end), clip.start + 2 * tick, clip.seconds);
  rail.style.setProperty("--start", clip.start / clip.seconds);
  rail.style.setProperty("--end", clip.end / clip.seconds);
  for (const [side, node] of Object.entries(handles)) {
    node.setAttribute("aria-valuemax", clip.seconds.toFixed(2));
    node.setAttribute("aria-valuenow", clip[side].toFixed(2));
    node.setAttribute("aria-valuetext", seconds(clip[side]));
  }
  const count = Math.round((clip.end - clip.start) * clip.fps);
  said.replaceChildren(h("b", {}, `${clip.start.toFixed(2)} – ${seconds(clip.end)}`), ` · ${count} frames`);
  whole.hidden = clip.start === 0 && clip.end > clip.seconds - tick;
  if (!tell) return;
  forget();
  late = setTimeout(() => {
    late = 0;
    trigger("span", { start: clip.start, end: clip.end });
  }, 250);
}

function forget() {
  clearTimeout(late);
  late = 0;
}

const timeOf = (event) => {
  const box = rail.getBoundingClientRect();
  return (event.clientX - box.left) / box.width * clip.seconds;
};

for (const [side, node] of Object.entries(handles)) {
  dragged(node, (event) => { set(limited(side, timeOf(event)), true); });
  node.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, PageDown: -clip.fps, PageUp: clip.fps }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    set(limited(side, clip[side] + by / clip.fps), true);
  });
}

// A handle stops at the other one, and does not push it.
const limited = (side, time) => (side === "start" ? { start: Math.min(time, clip.end - 2 / clip.fps) } : { end: time });

dragged(span, (event, begun) => {
  if (!begun) return { at: timeOf(event), start: clip.start, length: clip.end - clip.start };
  const start = clamp(begun.start + timeOf(event) - begun.at, 0, clip.seconds - begun.length);
  set({ start, end: start + begun.length }, true);
  return undefined;
});

drawn(draw);
