"use strict";

const MOST_NEIGHBORS = 5; // of a shelf; a label graph may have dozens
const $ = (id) => document.getElementById(id);
let picture = null; // chosen or dropped
let asked = 0; // only the last request's answer is shown

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text; // never HTML: titles and labels are data
  if (className) made.className = className;
  return made;
}

function say(text, isWrong = false) {
  $("status").textContent = text;
  $("status").classList.toggle("is-wrong", isWrong);
}

function choose(file) {
  picture = file;
  const preview = $("preview");
  if (preview.src) URL.revokeObjectURL(preview.src);
  preview.hidden = !file;
  $("remove").hidden = !file;
  $("drop-text").hidden = Boolean(file);
  const transfer = new DataTransfer(); // the field names a dropped picture too
  if (file) {
    transfer.items.add(file);
    preview.src = URL.createObjectURL(file);
    preview.alt = `Your picture: ${file.name}`;
  } else {
    preview.removeAttribute("src");
  }
  $("image").files = transfer.files;
}

async function json(response) {
  const content = await response.json().catch(() => null);
  if (response.ok && content) return content;
  const error = content && content.error;
  throw new Error(error ? `${error.what}. What helps: ${error.fix}.` : `status ${response.status}`);
}

async function ask(event) {
  event.preventDefault();
  const title = $("title").value;
  if (!picture && !title.trim()) {
    $("result").hidden = true;
    say("Give a picture or a title first.", true);
    $("title").focus();
    return;
  }
  const form = new FormData();
  if (picture) form.append("image", picture);
  if (title.trim()) form.append("title", title);
  const number = ++asked;
  $("ask").setAttribute("aria-disabled", "true");
  say("Looking ...");
  try {
    const answers = await json(await fetch("/v1/predict?top=5", { method: "POST", body: form }));
    if (number === asked) show(answers);
  } catch (error) {
    if (number === asked) {
      $("result").hidden = true;
      say(`No answer: ${error.message}`, true);
    }
  } finally {
    if (number === asked) $("ask").removeAttribute("aria-disabled");
  }
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

function show(answers) {
  const item = answers.items[0];
  const shelves = item.top.map(shelf);
  $("shelves").replaceChildren(...shelves.map((each) => each.card));
  $("verdict").textContent = verdict(answers, item);
  $("result").hidden = false;
  const missing = item.error && !isAbsent(item.error) ? ` Left out: ${item.error}.` : "";
  say(`${item.top.length} shelves found.${missing}`, Boolean(missing));
  $("result-title").focus();
  shelves.forEach((each) => each.load());
}

function isAbsent(error) {
  return error.split("; ").every((reason) => reason.endsWith(": not given"));
}

function verdict(answers, item) {
  if (!item.top.length) return "There is nothing to predict from.";
  const runs = answers.runs.join(" and ");
  if (!item.abstains) return `Answered by ${runs}.`;
  return `${runs} would rather not say: the first is below ${percent(answers.threshold)}.`;
}

function shelf(label) {
  const card = element("li");
  const line = element("div", undefined, "shelf");
  line.append(element("strong", label.name), element("span", percent(label.probability)));
  const bar = element("div", undefined, "bar");
  bar.setAttribute("aria-hidden", "true"); // the number stands beside it
  const fill = element("div");
  bar.append(fill);
  card.append(line);
  if (label.path && label.path !== label.name) card.append(element("div", label.path, "path"));
  card.append(bar);
  requestAnimationFrame(() => {
    fill.style.width = `${100 * label.probability}%`;
  });
  return { card, load: () => loadNeighbors(card, label) };
}

async function loadNeighbors(card, label) {
  const note = element("p", "Beside it: ...", "beside");
  card.append(note);
  try {
    const id = encodeURIComponent(label.label_id);
    const found = await json(await fetch(`/v1/labels/${id}/neighbors`));
    note.textContent = found.neighbors.length ? "Beside it:" : "No shelf is beside it.";
    if (!found.neighbors.length) return;
    const list = element("ul", undefined, "neighbors");
    list.setAttribute("aria-label", `Shelves beside ${label.name}`);
    list.append(...found.neighbors.slice(0, MOST_NEIGHBORS).map(neighbor));
    card.append(list);
  } catch (error) {
    note.textContent = `Shelves beside it: ${error.message}`;
  }
}

function neighbor(label) {
  const item = element("li", label.name);
  if (label.path) item.title = label.path;
  if (label.similarity !== null) {
    item.append(" ", element("span", label.similarity.toFixed(2)));
  }
  return item;
}

function isFileDrag(event) {
  return Array.from(event.dataTransfer?.types ?? []).includes("Files");
}

$("form").addEventListener("submit", ask);
$("image").addEventListener("change", () => choose($("image").files[0] ?? null));
$("remove").addEventListener("click", () => {
  choose(null);
  $("image").focus();
});
// Anywhere on the page: a file that misses the box would else replace the page.
document.addEventListener("dragover", (event) => {
  if (!isFileDrag(event)) return;
  event.preventDefault();
  $("drop").classList.add("is-over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) $("drop").classList.remove("is-over");
});
document.addEventListener("drop", (event) => {
  $("drop").classList.remove("is-over");
  if (!isFileDrag(event)) return;
  event.preventDefault();
  if (event.dataTransfer.files.length) choose(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  const file = Array.from(event.clipboardData?.files ?? [])[0];
  if (file) choose(file);
});
