// One picture for several tracks in step: films on one clock, or stills; a wipe between two of them.
//
// value: { key, fps, seconds, left, right, tracks: [{ name, label, url, start, still, share, text }], note }
// A track without a url is on its way: its share is done, its text says what of. start is where it begins in
// its own file, in seconds. A new key is another subject, so the player begins anew. note is { title, text }.

const view = h("div", { class: "view" });
const transport = h("div", { class: "transport" });
const wipe = h("div", {
  class: "wipe", role: "slider", tabindex: 0, "aria-label": "Wipe between the two tracks",
  "aria-valuemin": 0, "aria-valuemax": 100,
}, h("span", { class: "grip" }, icon("wipe")));
const picks = { left: pick("left", "Left of the wipe"), right: pick("right", "Right of the wipe") };
const note = h("div", { class: "note", hidden: true });
const toggle = h("button", { class: "round", type: "button", onclick: () => (clock.playing ? stop() : play()) });
const head = h("input", {
  type: "range", min: 0, step: 1, class: "scrub", "aria-label": "Frame",
  oninput: () => stop(head.valueAsNumber),
});
const count = h("output", { class: "count" });
transport.append(toggle, head, count);
root.append(h("div", { class: "room" }, view), transport);
view.append(wipe, picks.left, picks.right, note);

let shown = null;
const screens = new Map(); // by track's name: the video or image
const clock = { time: 0, then: 0, playing: false };

// ---- tracks

function pick(side, label) {
  return h("select", { class: `pick ${side}`, "aria-label": label, onchange: (event) => choose(side, event.target.value) });
}

function draw(value) {
  const fresh = !value || value.key !== shown?.key;
  if (fresh) clear();
  shown = value && { ...value, ...(fresh ? {} : { left: shown.left, right: shown.right }) }; // what a person chose
  appear(shown);
  if (!shown) return;
  const ready = shown.tracks.filter((track) => track.url);
  for (const name of screens.keys()) if (!ready.some((track) => track.name === name)) drop(name);
  ready.forEach(screen);
  settle();
  if (fresh && films().length && !matchMedia("(prefers-reduced-motion: reduce)").matches) play();
}

function clear() {
  stop();
  [...screens.keys()].forEach(drop);
  Object.assign(clock, { time: 0, playing: false });
  wiped(50);
}

function drop(name) {
  const node = screens.get(name);
  node.removeAttribute("src"); // a browser has only so many decoders, and would free them late
  node.load?.();
  node.remove();
  screens.delete(name);
}

function screen(track) {
  const old = screens.get(track.name);
  if (old?.dataset.url === track.url) return;
  if (old) drop(track.name);
  const node = track.still ? h("img", { alt: track.label }) : h("video", { "aria-label": track.label });
  if (!track.still) Object.assign(node, { muted: true, playsInline: true, preload: "auto" });
  node.addEventListener(track.still ? "load" : "loadedmetadata", () => {
    lay();
    seek(node);
    if (clock.playing) node.play?.().catch(() => {});
  });
  Object.assign(node.dataset, { url: track.url, start: track.start ?? 0 });
  node.className = "screen";
  node.src = track.url;
  screens.set(track.name, node);
  view.prepend(node);
}

function choose(side, name) {
  const other = side === "left" ? "right" : "left";
  if (shown[other] === name) shown[other] = shown[side];
  shown[side] = name;
  settle();
}

// Puts the two chosen tracks on the picture; for one that is not there yet, the best that is.
function settle() {
  const names = shown.tracks.map((track) => track.name).filter((name) => screens.has(name));
  const right = names.includes(shown.right) ? shown.right : names.at(-1);
  const left = names.includes(shown.left) && shown.left !== right ? shown.left : names.find((name) => name !== right);
  for (const [name, node] of screens) node.dataset.side = name === right ? "right" : name === left ? "left" : "";
  options(picks.left, left);
  options(picks.right, right);
  view.classList.toggle("single", !left);
  view.classList.toggle("empty", !right);
  transport.hidden = !films().length;
  tell(shown.note);
  lay();
  show();
}

function tell(found) {
  note.hidden = !found;
  note.classList.toggle("bad", Boolean(found?.bad));
  if (!found) return;
  const bar = h("progress", { max: 1, value: found.share, "aria-label": found.title });
  note.replaceChildren(icon(found.bad ? "alert" : "film"), h("div", {}, h("b", {}, found.title), h("p", {}, found.text),
    found.share == null ? null : bar));
}

function options(select, chosen) {
  const made = shown.tracks.map((track) => {
    const waits = !track.url;
    return h("option", { value: track.name, disabled: waits, selected: track.name === chosen },
      waits ? `${track.label}: ${track.text}` : track.label);
  });
  if (select.dataset.made !== JSON.stringify(made.map((option) => option.outerHTML))) {
    select.replaceChildren(...made);
    select.dataset.made = JSON.stringify(made.map((option) => option.outerHTML));
  }
  select.value = chosen ?? "";
}

// The picture takes the shape of the right track: a backbone may have cut the source to its own.
function lay() {
  const node = [...screens.values()].find((screen) => screen.dataset.side === "right");
  const width = node?.videoWidth || node?.naturalWidth, height = node?.videoHeight || node?.naturalHeight;
  if (width) view.style.setProperty("--aspect", width / height);
}

// ---- the wipe

function wiped(share) {
  wipe.setAttribute("aria-valuenow", Math.round(share));
  view.style.setProperty("--wipe", `${share}%`);
}

dragged(wipe, (event) => {
  const box = view.getBoundingClientRect();
  wiped(clamp((event.clientX - box.left) / box.width * 100, 0, 100));
});
wipe.addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -2, ArrowRight: 2, PageDown: -10, PageUp: 10, Home: -100, End: 100 }[event.key];
  if (by === undefined) return;
  event.preventDefault();
  event.stopPropagation();
  wiped(clamp(Number(wipe.getAttribute("aria-valuenow")) + by, 0, 100));
});

// ---- the clock

const films = () => [...screens.values()].filter((screen) => screen.localName === "video");
const frames = () => Math.max(1, Math.round(shown.seconds * shown.fps));
const frame = () => Math.min(frames() - 1, Math.floor(clock.time * shown.fps + 1e-6));

function seek(node) {
  const last = Math.max(0, (node.duration || Infinity) - 0.5 / shown.fps);
  node.currentTime = Math.min(clock.time + Number(node.dataset.start), last);
}

function jump(time) {
  clock.time = time;
  films().forEach(seek);
}

function play() {
  Object.assign(clock, { playing: true, then: performance.now() });
  films().forEach((film) => film.play().catch(() => {}));
  tick(clock.then);
}

function stop(at = shown ? frame() : 0) {
  clock.playing = false;
  films().forEach((film) => film.pause());
  if (!shown?.fps) return;
  jump((at + 0.5) / shown.fps); // the middle of a frame is surely in it
  show();
}

function tick(now) {
  if (!clock.playing || !element.isConnected) return;
  clock.time += (now - clock.then) / 1000;
  clock.then = now;
  if (clock.time >= shown.seconds) {
    jump(0);
    films().forEach((film) => film.play().catch(() => {}));
  }
  films().forEach(correct);
  show();
  requestAnimationFrame(tick);
}

// A little drift is caught up by speed, unseen; much of it by a jump.
function correct(film) {
  if (film.ended || film.seeking || film.readyState < 2) return;
  const drift = clock.time + Number(film.dataset.start) - film.currentTime;
  if (Math.abs(drift) > 0.25) seek(film);
  film.playbackRate = Math.abs(drift) > 0.02 ? 1 + clamp(drift * 2, -0.5, 0.5) : 1;
}

function show() {
  if (!shown?.fps) return;
  if (toggle.dataset.playing !== String(clock.playing)) {
    toggle.dataset.playing = clock.playing;
    toggle.replaceChildren(icon(clock.playing ? "pause" : "play"));
    toggle.setAttribute("aria-label", clock.playing ? "Pause" : "Play");
  }
  head.max = frames() - 1;
  head.value = frame();
  count.textContent = `${frame() + 1} / ${frames()}`;
}

const step = (by) => stop((frame() + by + frames()) % frames());
const KEYS = {
  " ": () => (clock.playing ? stop() : play()),
  ArrowLeft: () => step(-1),
  ArrowRight: () => step(1),
  Home: () => stop(0),
  End: () => stop(frames() - 1),
};

// The keys are the player's wherever nothing else has a use for them.
function key(event) {
  if (!element.isConnected) return removeEventListener("keydown", key);
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return undefined;
  if (event.target.closest("input:not(.scrub), textarea, select, button, a, [role], [contenteditable]")) return undefined;
  if (!KEYS[event.key] || !shown?.fps || !films().length || !element.offsetParent) return undefined;
  event.preventDefault();
  return KEYS[event.key]();
}

addEventListener("keydown", key);
view.addEventListener("click", (event) => {
  if (event.target.matches(".screen") && films().length) KEYS[" "]();
});
drawn(draw);
