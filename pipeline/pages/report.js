"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const { approaches, categories, mistakes } = data;
const PAGE_ITEMS = 24;
const MOST_RESULTS = 40;
const MOST_NEIGHBORS = 20;

const byId = (id) => document.getElementById(id);
const count = (number) => number.toLocaleString("en-US");
const percent = (share) => `${(100 * share).toFixed(1)}%`;
const shelf = (label) => categories.path[label] ?? categories.name[label];

/** Make an element; null children are left out. */
function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "share") made.style.setProperty("--share", `${100 * value}%`);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

function fillRuns(select, chosen = 0) {
  select.replaceChildren(...approaches.map(({ title }, i) => new Option(title, i)));
  select.value = String(chosen);
}

// Categories

let openLabel = null;
const categoryRun = () => Number(byId("category-run").value);

function labelButton(label) {
  const button = element("button", { type: "button", className: "link" }, shelf(label));
  button.addEventListener("click", () => showCategory(label));
  return button;
}

function search() {
  const words = byId("category-search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = [];
  if (words.length) {
    for (let label = 0; label < categories.name.length; label++) {
      const text = `${shelf(label)} ${categories.id[label]}`.toLowerCase();
      if (words.every((word) => text.includes(word))) found.push(label);
    }
  }
  const more = found.length > MOST_RESULTS ? `; the first ${MOST_RESULTS} are shown` : "";
  byId("category-count").textContent = words.length
    ? `${count(found.length)} ${found.length === 1 ? "category" : "categories"}${more}`
    : `${count(categories.name.length)} categories`;
  byId("category-results").replaceChildren(
    ...found.slice(0, MOST_RESULTS).map((label) => {
      const button = element("button", { type: "button" }, shelf(label));
      button.addEventListener("click", () => showCategory(label));
      return element("li", {}, button);
    }),
  );
}

function numbersTable(label) {
  const head = ["approach", "recall", "precision", "right", "answers"];
  const rows = approaches.map(({ title }, i) => {
    const run = categories.runs[i];
    const right = run.right[label], answers = run.answers[label], items = categories.items[label];
    const cells = [
      items ? percent(right / items) : "", answers ? percent(right / answers) : "",
      count(right), count(answers),
    ];
    return element("tr", {}, element("th", { scope: "row" }, title),
      ...cells.map((cell) => element("td", {}, cell)));
  });
  const table = element("table", {},
    element("thead", {}, element("tr", {}, ...head.map((name) => element("th", { scope: "col" }, name)))),
    element("tbody", {}, ...rows));
  const region = element("div", { className: "scroll", tabIndex: 0 }, table);
  region.setAttribute("role", "region");
  region.setAttribute("aria-label", "Recall and precision of the category");
  return region;
}

function showCategory(label, { takesFocus = true } = {}) {
  openLabel = label;
  const similar = categories.neighbors[label].slice(0, MOST_NEIGHBORS).map((other, i) => {
    const similarity = categories.similarities[label][i] / 1000;
    return element("li", { share: Math.max(0, similarity) }, labelButton(other),
      element("span", {}, similarity.toFixed(3)));
  });
  const items = categories.items[label];
  const run = categories.runs[categoryRun()];
  const timesOf = (times) => element("span", {}, `${count(times)} of ${count(items)}`);
  const confused = (run.confused[label] ?? []).map(([other, times]) =>
    element("li", { share: times / items }, labelButton(other), timesOf(times)));
  if (run.unanswered[label]) {
    const share = run.unanswered[label] / items;
    confused.push(element("li", { share }, element("span", {}, "no answer"), timesOf(run.unanswered[label])));
  }
  const title = element("h3", { tabIndex: -1 }, shelf(label));
  byId("category").replaceChildren(
    title,
    element("p", {}, `Id ${categories.id[label]}. ${count(categories.train[label])} train items, `
      + `${count(items)} test items.`),
    numbersTable(label),
    element("div", { className: "columns" },
      element("div", {}, element("h3", {}, `Taken for, by ${approaches[categoryRun()].title}`),
        confused.length ? element("ol", { className: "bars" }, ...confused)
          : element("p", {}, "No mistakes among its test items.")),
      element("div", {}, element("h3", {}, "Neighbors in the label graph, with their cosine"),
        similar.length ? element("ol", { className: "bars" }, ...similar)
          : element("p", {}, "It has none."))),
  );
  byId("category").hidden = false;
  if (takesFocus) title.focus();
}

function errorBar(name, items, right, button = null) {
  const share = items ? 1 - right / items : 0;
  const text = items ? `${percent(share)} wrong of ${count(items)}` : "no test items";
  return element("span", { className: "error-bar", share }, button ?? element("span", {}, name),
    element("span", {}, text));
}

/** Nodes of the category tree with the sums of the labels below. */
function makeTree(run) {
  const root = { children: new Map(), items: 0, right: 0 };
  for (let label = 0; label < categories.name.length; label++) {
    let node = root;
    for (const level of categories.path[label].split(" > ")) {
      if (!node.children.has(level)) {
        node.children.set(level, { name: level, children: new Map(), items: 0, right: 0, label: null });
      }
      node = node.children.get(level);
      node.items += categories.items[label];
      node.right += categories.runs[run].right[label];
    }
    node.label = label;
  }
  return root;
}

const openBranches = new Set();

function leaf(label, name) {
  const button = labelButton(label);
  button.textContent = name;
  const items = categories.items[label], right = categories.runs[categoryRun()].right[label];
  return element("li", {}, errorBar(name, items, right, button));
}

function treeItems(node, above = "") {
  const children = [...node.children.values()];
  children.sort((a, b) => (b.items - b.right) - (a.items - a.right) || a.name.localeCompare(b.name));
  return children.map((child) => {
    if (!child.children.size) return leaf(child.label, child.name);
    const key = `${above} > ${child.name}`;
    const below = element("ul");
    const details = element("details", {}, element("summary", {},
      errorBar(child.name, child.items, child.right)), below);
    const fill = () => {
      // A category may have others below it.
      if (child.label !== null) below.append(leaf(child.label, child.name));
      below.append(...treeItems(child, key));
    };
    details.addEventListener("toggle", () => {
      if (details.open) openBranches.add(key);
      else openBranches.delete(key);
      if (details.open && !below.children.length) fill();
    });
    if (openBranches.has(key)) {
      fill();
      details.open = true;
    }
    return element("li", {}, details);
  });
}

function showTree() {
  byId("tree-part").hidden = !data.hasTree;
  if (data.hasTree) byId("tree").replaceChildren(...treeItems(makeTree(categoryRun())));
}

// Mistakes

const filters = byId("filters");
const shownItems = { near: [], far: [] };
const confidence = (item, run) => mistakes.runs[run].thousandths[item][0];

function branchesAndDistances() {
  const branches = new Set(mistakes.label.map((label) => shelf(label).split(" > ")[0]));
  const names = data.hasTree ? [...branches].sort() : [];
  filters.branch.replaceChildren(new Option("all", ""), ...names.map((name) => new Option(name, name)));
  filters.branch.closest("label").hidden = !data.hasTree;
  const distances = new Set(mistakes.runs.flatMap((run) => run.distance));
  const known = [...distances].filter((each) => each > 0).sort((a, b) => a - b);
  filters.distance.replaceChildren(new Option("any", ""), ...known.map((each) =>
    new Option(each === 1 ? "1 level" : `${each} levels`, each)));
  filters.distance.closest("label").hidden = !data.hasTree;
}

function chosenItems() {
  const run = Number(filters.run.value);
  const { top, distance, near } = mistakes.runs[run];
  const words = filters.words.value.toLowerCase().split(/\s+/).filter(Boolean);
  const least = Number(filters.confidence.value);
  const found = [];
  mistakes.label.forEach((label, item) => {
    if (top[item][0] === label) return;
    if (filters.branch.value && shelf(label).split(" > ")[0] !== filters.branch.value) return;
    if (filters.distance.value && distance[item] !== Number(filters.distance.value)) return;
    if (confidence(item, run) < least) return;
    const title = mistakes.title[item].toLowerCase();
    if (words.every((word) => title.includes(word))) found.push(item);
  });
  const order = {
    sure: (a, b) => confidence(b, run) - confidence(a, run) || a - b,
    far: (a, b) => distance[b] - distance[a] || confidence(b, run) - confidence(a, run) || a - b,
    plain: (a, b) => a - b,
  }[filters.order.value];
  found.sort(order);
  return { near: found.filter((item) => near[item]), far: found.filter((item) => !near[item]) };
}

function picture(item) {
  if (mistakes.picture[item]) {
    return element("img", { className: "picture", src: mistakes.picture[item], alt: "", loading: "lazy" });
  }
  return element("div", { className: "no-picture" },
    mistakes.problem[item] || "left out, so that the page stays small");
}

function title(item) {
  return mistakes.title[item] || `(no title) ${mistakes.id[item]}`;
}

function card(item) {
  const run = Number(filters.run.value);
  const answer = mistakes.runs[run].top[item][0], distance = mistakes.runs[run].distance[item];
  const terms = [
    ["is", shelf(mistakes.label[item])],
    ["said", answer < 0 ? "nothing" : shelf(answer)],
    ["sure", percent(confidence(item, run) / 1000)],
  ];
  if (distance > 0) terms.push(["apart", distance === 1 ? "1 level" : `${distance} levels`]);
  const button = element("button", { type: "button" }, "Compare approaches");
  button.setAttribute("aria-label", `Compare approaches on ${title(item)}`);
  button.addEventListener("click", () => showPair(item));
  return element("li", {}, picture(item), element("span", { className: "title" }, title(item)),
    element("dl", {}, ...terms.flatMap(([term, text]) =>
      [element("dt", {}, term), element("dd", {}, text)])), button);
}

function showMore(kind) {
  const list = byId(kind), items = shownItems[kind];
  const from = list.children.length;
  list.append(...items.slice(from, from + PAGE_ITEMS).map(card));
  byId(`${kind}-more`).hidden = list.children.length >= items.length;
  return from;
}

function showMistakes() {
  Object.assign(shownItems, chosenItems());
  for (const kind of ["far", "near"]) {
    byId(kind).replaceChildren();
    showMore(kind);
    byId(`${kind}-title`).textContent =
      `${kind === "far" ? "Far" : "Near"} misses: ${count(shownItems[kind].length)}`;
  }
  const total = shownItems.far.length + shownItems.near.length;
  byId("mistake-count").textContent =
    `${count(total)} of the ${count(mistakes.label.length)} items in this gallery`;
}

let pairItem = 0;

function showSide(side) {
  const run = Number(byId(`pair-${side}`).value);
  const { top, thousandths } = mistakes.runs[run];
  byId(`pair-${side}-top`).replaceChildren(...top[pairItem].map((label, i) => {
    if (label < 0) return element("li", { share: 0 }, "no answer");
    const isTrue = label === mistakes.label[pairItem];
    const share = thousandths[pairItem][i] / 1000;
    return element("li", { share, className: isTrue ? "is-true" : "" },
      element("span", {}, `${shelf(label)}${isTrue ? " (right)" : ""}`), element("span", {}, percent(share)));
  }));
}

function showPair(item) {
  pairItem = item;
  byId("pair-title").textContent = title(item);
  byId("pair-item").replaceChildren(picture(item), element("p", {}, "It is ",
    element("bdi", {}, shelf(mistakes.label[item])), ". Item ", element("bdi", {}, mistakes.id[item]), "."));
  const run = Number(filters.run.value);
  byId("pair-left").value = String(run);
  byId("pair-right").value = String(run === 0 ? approaches.length - 1 : 0);
  showSide("left");
  showSide("right");
  byId("pair").showModal();
}

fillRuns(byId("category-run"));
fillRuns(filters.run);
fillRuns(byId("pair-left"));
fillRuns(byId("pair-right"), approaches.length - 1);
branchesAndDistances();
search();
showTree();
showMistakes();
byId("category-search").addEventListener("input", search);
byId("category-run").addEventListener("change", () => {
  showTree();
  if (openLabel !== null) showCategory(openLabel, { takesFocus: false });
});
filters.addEventListener("input", showMistakes);
filters.addEventListener("submit", (event) => event.preventDefault());
for (const kind of ["far", "near"]) {
  byId(`${kind}-more`).addEventListener("click", () => {
    const from = showMore(kind);
    byId(kind).children[from]?.querySelector("button").focus();
  });
}
byId("pair-close").addEventListener("click", () => byId("pair").close());
for (const side of ["left", "right"]) {
  byId(`pair-${side}`).addEventListener("change", () => showSide(side));
}
