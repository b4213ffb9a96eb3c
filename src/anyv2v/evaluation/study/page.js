// A round after the other: clips in step with one play head, marks by keys or mouse, votes to the server.

const $ = (id) => document.getElementById(id);
const GAP = 14, CAPTION = 44; // pixels, as in page.css
const WANTED = {
  style: ["The style of the reference", "have it"],
  subject: ["The subject in the reference", "show it"],
  identity: ["The person in the reference", "show them"],
};

// ---- the play head

class Player {
  // All clips show the time of one clock. Short ones wait at their last frame for the others.
  constructor(videos, fps) {
    this.videos = videos;
    this.fps = fps;
    this.duration = Math.max(...videos.map((video) => video.duration));
    this.frames = Math.max(1, Math.round(this.duration * fps));
    this.time = 0;
    this.playing = false;
    this.tick = this.tick.bind(this);
  }

  play() {
    this.playing = true;
    this.then = performance.now();
    this.videos.forEach((video) => this.start(video));
    this.tick(this.then);
    this.show();
  }

  start(video) {
    if (this.time < video.duration) video.play().catch(() => {});
  }

  stop(frame = this.frame) {
    this.playing = false;
    this.videos.forEach((video) => video.pause());
    this.jump((frame + 0.5) / this.fps); // the middle of a frame is surely in it
    this.show();
  }

  release() {
    // A browser has only so many decoders, and would free them late.
    this.playing = false;
    for (const video of this.videos) {
      video.removeAttribute("src");
      video.load();
    }
  }

  get frame() {
    return Math.min(this.frames - 1, Math.floor(this.time * this.fps + 1e-6));
  }

  step(by) {
    this.stop((this.frame + by + this.frames) % this.frames);
  }

  jump(time) {
    this.time = time;
    this.videos.forEach((video) => { video.currentTime = Math.min(time, video.duration - 0.5 / this.fps); });
  }

  tick(now) {
    if (!this.playing) return;
    this.time += (now - this.then) / 1000;
    this.then = now;
    if (this.time >= this.duration) this.loop();
    this.videos.forEach((video) => this.correct(video));
    this.show();
    requestAnimationFrame(this.tick);
  }

  loop() {
    this.jump(0);
    this.videos.forEach((video) => this.start(video));
  }

  correct(video) {
    // A little drift is caught up by speed, unseen; much of it by a jump.
    if (video.ended || video.seeking) return;
    const drift = this.time - video.currentTime;
    if (Math.abs(drift) > 0.25) video.currentTime = this.time;
    video.playbackRate = Math.abs(drift) > 0.02 ? 1 + Math.max(-0.5, Math.min(0.5, drift * 2)) : 1;
  }

  show() {
    $("play").classList.toggle("playing", this.playing);
    $("play").setAttribute("aria-label", this.playing ? "Pause" : "Play");
    $("head").max = this.frames - 1;
    $("head").value = this.frame;
    $("frame").textContent = `${this.frame + 1} / ${this.frames}`;
  }
}

// ---- a round

const round = { sheet: null, player: null, follows: new Set(), best: null };

const media = (sheet, place) => `${location.pathname}/media/${sheet.media[place]}`;

// Films do not load in a template's own document, so its tiles are brought over to this one.
const copy = (template) => document.importNode($(template).content, true).firstElementChild;

function film(sheet, place, label) {
  const video = document.createElement("video");
  Object.assign(video, { src: media(sheet, place), muted: true, playsInline: true, preload: "auto" });
  video.setAttribute("aria-label", label);
  return video;
}

function picture(sheet) {
  const image = new Image();
  image.src = media(sheet, "reference");
  image.alt = "The reference";
  return image;
}

function given(sheet, place) {
  const tile = copy("given-tile");
  const isSource = place === "source";
  tile.querySelector(".view").append(isSource ? film(sheet, place, "The source") : picture(sheet));
  tile.querySelector("figcaption").textContent = isSource ? "Source" : "Reference";
  return tile;
}

function clip(sheet, letter, number) {
  const tile = copy("clip-tile");
  const name = letter.toUpperCase();
  tile.dataset.letter = letter;
  tile.setAttribute("aria-label", `Edit ${name}`);
  tile.querySelector(".view").append(film(sheet, letter, `Edit ${name}`));
  tile.querySelector(".letter").textContent = name;
  const actions = { ".follows": [number, "follows", toggle], ".best": [letter, "is the best", choose] };
  for (const [button, [key, says, act]] of Object.entries(actions)) {
    const found = tile.querySelector(button);
    found.querySelector("kbd").textContent = key;
    found.setAttribute("aria-label", `${name} ${says}`);
    found.setAttribute("aria-keyshortcuts", key);
    found.addEventListener("click", () => act(letter));
  }
  return tile;
}

async function show(sheet) {
  if (sheet.done) return showDone(sheet);
  const tiles = ["source", "reference"].filter((place) => place in sheet.media).map((place) => given(sheet, place));
  const clips = sheet.letters.map((letter, k) => clip(sheet, letter, k + 1));
  const videos = [...tiles, ...clips].flatMap((tile) => [...tile.querySelectorAll("video")]);
  await Promise.all(videos.map(loaded)); // the last round stays until this one can be seen whole
  round.player?.release();
  Object.assign(round, { sheet, follows: new Set(sheet.vote?.aligned), best: sheet.vote?.favourite ?? null });
  $("given").replaceChildren(...tiles);
  $("clips").replaceChildren(...clips);
  describe(sheet);
  open("round");
  lay();
  mark();
  round.player = new Player(videos, sheet.fps);
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) round.player.stop();
  else round.player.play();
}

function loaded(video) {
  return new Promise((resolve, reject) => {
    video.addEventListener("loadeddata", resolve, { once: true });
    video.addEventListener("error", () => reject(new Error("A clip cannot be played.")), { once: true });
  });
}

function describe(sheet) {
  const [wish, does] = WANTED[sheet.task] ?? [`“${sheet.prompt}”`, "follow the prompt"];
  $("question").textContent = `Mark the edits that ${does}, and the one that is best overall`;
  $("wish").textContent = wish;
  $("count").textContent = `${sheet.number + 1} of ${sheet.total}`;
  $("progress").max = sheet.total;
  $("progress").value = sheet.number;
  $("back").classList.toggle("gone", !sheet.previous);
  document.title = `${sheet.number + 1} of ${sheet.total}`;
}

// All tiles are of one size, the largest at which they fit: what was given at the left, the edits beside it.
function lay() {
  const { videoWidth, videoHeight } = $("given").querySelector("video");
  const aspect = videoWidth / videoHeight;
  const style = getComputedStyle($("stage"));
  const width = $("stage").clientWidth - 2 * parseFloat(style.paddingLeft) - 1;
  const height = $("stage").clientHeight - 2 * parseFloat(style.paddingTop);
  let best = { size: 0 };
  for (const [left, right] of arrangements($("given").children.length, $("clips").children.length)) {
    const [columns, rows] = [left.columns + right.columns, Math.max(left.rows, right.rows)];
    const wide = width / columns - GAP;
    const high = (height + GAP) / rows - GAP - CAPTION;
    const size = Math.floor(Math.min(wide, high * aspect));
    if (size > best.size) best = { size, left: left.columns, right: right.columns };
  }
  $("stage").style.setProperty("--aspect", aspect);
  $("stage").style.setProperty("--width", `${best.size}px`);
  $("given").style.setProperty("--columns", best.left);
  $("clips").style.setProperty("--columns", best.right);
}

// Of equals the first is taken: one with as many rows on both sides.
function arrangements(given, clips) {
  const uneven = ([left, right]) => Math.abs(left.rows - right.rows);
  const all = grids(given).flatMap((left) => grids(clips).map((right) => [left, right]));
  return all.sort((one, other) => uneven(one) - uneven(other));
}

// Rows as even as can be: six are three and three, not four and two.
function grids(count) {
  return Array.from({ length: count }, (_, k) => ({ rows: k + 1, columns: Math.ceil(count / (k + 1)) }));
}

function toggle(letter) {
  if (!round.follows.delete(letter)) round.follows.add(letter);
  mark();
}

function choose(letter) {
  round.best = letter;
  mark();
}

function mark() {
  for (const tile of $("clips").children) {
    const { letter } = tile.dataset;
    tile.querySelector(".follows").setAttribute("aria-pressed", round.follows.has(letter));
    tile.querySelector(".best").setAttribute("aria-pressed", round.best === letter);
  }
  $("submit").setAttribute("aria-disabled", !round.best);
  say();
}

function hint() {
  const last = round.sheet.letters.length;
  return `1–${last} follows · a–${round.sheet.letters[last - 1]} best · space plays · ← → step`;
}

function say(trouble = "") {
  $("hint").textContent = trouble || hint();
  $("hint").classList.toggle("trouble", Boolean(trouble));
}

async function submit() {
  if (!round.best) return say("Choose the best one first.");
  const body = JSON.stringify({ aligned: [...round.follows], favourite: round.best });
  await alone(async () => show(await ask(`round/${round.sheet.id}`, { method: "POST", body })));
}

async function back() {
  if (round.sheet.previous) await alone(async () => show(await ask(`round/${round.sheet.previous}`)));
}

let busy = false;

// One thing at a time: a second press while the first is under way does nothing.
async function alone(work, complain = say) {
  if (busy) return;
  busy = true;
  try {
    await work();
  } catch (error) {
    complain(error.message);
  } finally {
    busy = false;
  }
}

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(`${location.pathname}/${path}`, options);
  } catch {
    throw new Error("The server does not answer; please try again.");
  }
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

// ---- the pages

let page = null;

function open(name) {
  page = name;
  for (const main of document.querySelectorAll("main")) main.hidden = main.id !== name;
  document.activeElement?.blur();
}

function showDone(sheet) {
  round.player?.release();
  Object.assign(round, { sheet, player: null });
  $("thanks").textContent = `You have rated all ${sheet.total} rounds.`;
  document.title = "Thank you";
  open("done");
}

function showSorry(reason) {
  $("reason").textContent = reason;
  open("sorry");
}

async function begin() {
  await alone(async () => {
    const sheet = await ask("round");
    if (sheet.number > 0 || page === "intro") await show(sheet);
    else open("intro");
  }, showSorry);
}

const KEYS = {
  intro: { Enter: begin },
  sorry: { Enter: begin },
  done: { Backspace: back },
  round: {
    Enter: submit,
    Backspace: back,
    " ": () => (round.player.playing ? round.player.stop() : round.player.play()),
    ArrowLeft: () => round.player.step(-1),
    ArrowRight: () => round.player.step(1),
  },
};

function actionOf(key) {
  const action = KEYS[page]?.[key];
  if (action || page !== "round") return action;
  const { letters } = round.sheet;
  if (letters.includes(key)) return () => choose(key);
  if (letters[key - 1]) return () => toggle(letters[key - 1]);
  return undefined;
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.repeat && !event.key.startsWith("Arrow")) return;
  if (event.target.closest?.("button") && [" ", "Enter"].includes(event.key)) return; // it is the button's own
  const action = actionOf(event.key.length === 1 ? event.key.toLowerCase() : event.key);
  if (!action) return;
  event.preventDefault();
  action();
});

// A click leaves the focus where it is, so that keys go on to mean what they say.
addEventListener("mousedown", (event) => { if (event.target.closest("button")) event.preventDefault(); });
addEventListener("resize", () => { if (page === "round") lay(); });
for (const [id, act] of Object.entries({ begin, retry: begin, submit, back, again: back })) {
  $(id).addEventListener("click", () => act());
}
$("play").addEventListener("click", KEYS.round[" "]);
$("stage").addEventListener("click", (event) => { if (event.target.closest(".view")) KEYS.round[" "](); });
$("head").addEventListener("input", () => round.player.stop($("head").valueAsNumber));

begin();
