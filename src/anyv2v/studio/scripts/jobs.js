// The queue and the history: a card for each job, the newest first.
//
// value: { open, jobs: [{ id, title, state, text, share, thumbnail, video, sidecar, free }] }; gives
// "open", "again", "cancel" and "remove", each with { id }, "changed" when any job has, and "nudge" now and then.
// video and sidecar are addresses of downloads; what is free can be removed.

const list = h("ul", { class: "cards" });
const nothing = h("p", { class: "nothing" }, "What you run stands here, and stays: close the tab, come back, it is still there.");
const said = h("p", { class: "away", role: "status" });
root.append(h("h2", {}, "Jobs"), list, nothing, said);
const cards = new Map();
const states = new Map();

function draw(value) {
  const jobs = value?.jobs ?? [];
  nothing.hidden = jobs.length > 0;
  for (const id of cards.keys()) if (!jobs.some((job) => job.id === id)) forget(id);
  jobs.forEach((job, k) => {
    const card = cards.get(job.id) ?? made(job.id);
    fill(card, job, job.id === value.open);
    if (list.children[k] !== card) list.insertBefore(card, list.children[k] ?? null);
    announce(job);
  });
}

function forget(id) {
  const card = cards.get(id), beside = card.nextElementSibling ?? card.previousElementSibling;
  if (card.contains(document.activeElement)) beside?.querySelector(".open").focus();
  card.remove();
  cards.delete(id);
}

function announce(job) {
  const before = states.get(job.id);
  states.set(job.id, job.state);
  if (before && before !== job.state) said.textContent = `${job.title}: ${job.text}`;
}

function made(id) {
  const act = (event) => () => trigger(event, { id });
  const card = h("li", { class: "card" },
    h("button", { class: "open", type: "button", onclick: act("open") },
      h("span", { class: "thumb" }), h("span", { class: "words" },
        h("b"), h("span", { class: "text" }), h("progress", { max: 1, "aria-label": "Progress" }))),
    h("span", { class: "acts" },
      tool("again", "Edit again", act("again")),
      h("a", { class: "tool video", title: "Download the video", download: true }, icon("save")),
      h("a", { class: "tool sidecar", title: "Download the sidecar: how it was made", download: true }, icon("note")),
      tool("cancel", "Cancel", act("cancel"), "stop"),
      tool("remove", "Delete", act("remove"))));
  cards.set(id, card);
  return card;
}

function tool(name, title, onclick, shape = name) {
  return h("button", { class: `tool ${name}`, type: "button", title, onclick }, icon(shape));
}

function fill(card, job, open) {
  if (card.dataset.shown === JSON.stringify([job, open])) return;
  card.dataset.shown = JSON.stringify([job, open]);
  const $ = (selector) => card.querySelector(selector);
  const going = job.state === "queued" || job.state === "running";
  card.dataset.state = job.state;
  card.classList.toggle("current", open);
  $(".open").setAttribute("aria-current", open);
  $(".open b").textContent = $(".open b").title = job.title;
  $(".text").textContent = job.text;
  $(".text").title = job.state === "failed" ? job.text : "";
  thumb($(".thumb"), job);
  const bar = $("progress");
  bar.hidden = job.state !== "running";
  if (job.share == null) bar.removeAttribute("value");
  else bar.value = job.share;
  for (const [name, there] of Object.entries({ again: !going, cancel: going, remove: job.free, video: job.video, sidecar: job.sidecar })) {
    const node = $(`.${name}.tool`);
    node.hidden = !there;
    node.setAttribute("aria-label", `${node.title}: ${job.title}`);
    if (node.localName === "a" && there) Object.assign(node, { href: there, download: job.title.slice(0, 60) });
  }
}

function thumb(holder, job) {
  if (holder.dataset.url === job.thumbnail) return;
  holder.dataset.url = job.thumbnail;
  holder.replaceChildren(h("img", { src: job.thumbnail, alt: "", loading: "lazy" }));
}

// ---- whether anything has changed, asked of the studio itself: it may be gone for a while

const lost = h("p", { class: "lost", role: "alert", hidden: true }, "The studio does not answer. Your jobs are safe: they go on when it does.");
root.prepend(lost);
let revision = null, asking = false;

async function ask() {
  if (!element.isConnected) return;
  try {
    const now = await server.revision(null);
    if (typeof now !== "number") throw new Error("no answer");
    if (revision !== now) trigger("changed", {});
    revision = now;
    lost.hidden = true;
  } catch {
    lost.hidden = false;
    revision = null; // whatever was asked last may not have been heard
  }
  setTimeout(ask, document.hidden ? 3000 : 700);
}

// gradio may close the stream of answers just when something is asked: then the next question brings both answers.
function nudge() {
  if (!element.isConnected) return;
  trigger("nudge", {});
  setTimeout(nudge, 5000);
}

// Before the page is shown as it was left, its fields know nothing that would be worth telling.
drawn((value) => {
  draw(value);
  if (!value || asking) return;
  asking = true;
  ask();
});
setTimeout(nudge, 5000);
