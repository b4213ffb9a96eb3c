// Where a file is dropped, chosen or pasted; it goes to the studio at once.
//
// value: { to, accept, title, hint, shape, have: [{ id, url, caption }] }, or nothing; gives "done" with the studio's answer,
// and "remove" { id } of those it has. Without a place to go there is no room for more.

const input = h("input", { type: "file", class: "away", tabindex: -1, "aria-hidden": "true", onchange: () => take(input.files) });
const bar = h("progress", { max: 1, value: 0, hidden: true, "aria-label": "Upload" });
const title = h("b"), hint = h("small"), trouble = h("p", { class: "trouble", role: "alert", hidden: true });
const picture = h("span", { class: "shape" });
const button = h("button", { type: "button", class: "target", onclick: () => input.click() }, picture, title, hint, bar);
const have = h("div", { class: "have" });
root.append(have, button, input, trouble);

function draw(value) {
  appear(value);
  if (!value) return;
  Object.assign(input, { accept: value.accept, value: "" });
  button.hidden = !value.to;
  have.replaceChildren(...(value.have ?? []).map(({ id, url, caption }, k) => h("figure", { class: "kept" }, h("img", { src: url, alt: "" }),
    caption && h("figcaption", {}, caption),
    h("button", { type: "button", class: "tool", "aria-label": `Remove picture ${k + 1}`, onclick: () => trigger("remove", { id }) },
      icon("stop")))));
  picture.replaceChildren(icon(value.shape));
  title.textContent = value.title;
  hint.textContent = value.hint;
  complain("");
}

function complain(text) {
  trouble.hidden = !text;
  trouble.textContent = text;
}

async function take(files) {
  const file = files[0];
  if (!file || button.disabled || !props.value.to) return;
  complain("");
  button.disabled = true;
  bar.hidden = false;
  bar.removeAttribute("value");
  try {
    trigger("done", await send(props.value.to, file, (share) => { bar.value = share; }));
  } catch (error) {
    complain(error.message);
  } finally {
    button.disabled = false;
    bar.hidden = true;
    input.value = "";
  }
}

for (const [name, over] of Object.entries({ dragenter: true, dragover: true, dragleave: false, drop: false })) {
  root.addEventListener(name, (event) => {
    event.preventDefault();
    root.classList.toggle("over", over);
    if (name === "drop") take(event.dataTransfer.files);
  });
}

// A picture in the clipboard goes where pictures are taken.
function paste(event) {
  if (!element.isConnected) return removeEventListener("paste", paste);
  if (!button.offsetParent) return undefined; // there is no place for one
  return take([...event.clipboardData.files].filter((one) => one.type.startsWith(props.value.accept.split("/")[0])));
}

addEventListener("paste", paste);
drawn(draw);
