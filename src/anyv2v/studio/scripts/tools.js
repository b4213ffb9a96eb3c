// What every part stands on. Each part gets its own copy, and: element, trigger, props, watch.

const root = element.firstElementChild;

// Whether there is anything to show. What is not there takes no room.
function appear(there) {
  root.hidden = !there;
  element.closest(".block").dataset.gone = !there;
}

function h(name, given = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(given)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== false && value != null) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child != null && child !== false));
  return node;
}

const SHAPES = {
  play: '<path fill="currentColor" stroke="none" d="M8 5.5v13l10.5-6.5z"/>',
  pause: '<path fill="currentColor" stroke="none" d="M7 5.5h3.5v13H7zM13.5 5.5H17v13h-3.5z"/>',
  film: '<rect x="3.5" y="5" width="17" height="14" rx="2"/><path d="M8 5v14M16 5v14M3.5 9.7H8M3.5 14.3H8M16 9.7h4.5M16 14.3h4.5"/>',
  picture: '<rect x="3.5" y="5" width="17" height="14" rx="2"/><circle cx="9" cy="10" r="1.6"/><path d="m4 17.5 5-4 3.5 2.5 3.5-3.5 4.5 4"/>',
  save: '<path d="M12 4v11M7.5 11 12 15.5 16.5 11M5 19.5h14"/>',
  note: '<path d="M6 3.5h8l4 4v13H6zM14 3.5v4h4M9 12h6M9 16h6"/>',
  again: '<path d="M4.5 12a7.5 7.5 0 1 0 2.2-5.3L4.5 9M4.5 4.5V9H9"/>',
  stop: '<path d="m7 7 10 10M17 7 7 17"/>',
  remove: '<path d="M4.5 7h15M9.5 7V4.5h5V7M6.5 7l1 13h9l1-13M10.5 11v5.5M13.5 11v5.5"/>',
  undo: '<path d="M4.5 10h10a5 5 0 0 1 0 10H9M8.5 6l-4 4 4 4"/>',
  tick: '<path d="m5.5 12.5 4.5 4.5 8.5-10"/>',
  alert: '<path d="M12 4 2.8 19.5h18.4zM12 10v4.5M12 17v.2"/>',
  wipe: '<path d="M9 7.5 4.5 12 9 16.5M15 7.5l4.5 4.5-4.5 4.5"/>',
};

function icon(name) {
  const holder = h("span", { class: "icon", "aria-hidden": "true" });
  holder.innerHTML = `<svg viewBox="0 0 24 24">${SHAPES[name]}</svg>`;
  return holder;
}

const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

const seconds = (x) => `${x.toFixed(2)} s`;

// A part's value is drawn at once, and again whenever the server sends another.
function drawn(draw) {
  watch("value", () => draw(props.value));
  draw(props.value);
}

// Sends a file to the studio and tells how much of it is there; the answer is the studio's JSON.
function send(url, file, onShare = () => {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", file.name ? `${url}?name=${encodeURIComponent(file.name)}` : url);
    request.responseType = "json";
    request.upload.onprogress = (event) => onShare(event.loaded / event.total);
    request.onerror = () => reject(new Error("The studio does not answer. Is it still running?"));
    request.onload = () => {
      if (request.status < 300) resolve(request.response);
      else reject(new Error(request.response?.detail ?? `The studio refused the file (${request.status}).`));
    };
    request.send(file);
  });
}

// A pointer that goes down on a thing is followed until it comes up, wherever it goes.
function dragged(node, onMove, onEnd = () => {}) {
  node.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    node.focus?.();
    node.setPointerCapture(event.pointerId);
    const begun = onMove(event, null);
    const move = (next) => onMove(next, begun);
    const end = () => {
      node.removeEventListener("pointermove", move);
      onEnd();
    };
    node.addEventListener("pointermove", move);
    node.addEventListener("lostpointercapture", end, { once: true });
  });
}
