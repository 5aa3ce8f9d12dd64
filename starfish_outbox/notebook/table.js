// A window of thirty rows on any number of entries. The kernel sends the rows of the window whenever they change.
// Every text goes in as textContent: nothing that somebody stored becomes markup.

const ROW = 30; // px, as in table.css
const MARGIN = 6; // rows above and below what is seen
const ASK_EVERY = 5000; // ms; also tells the kernel that somebody still looks
const PATIENCE = 10000; // ms without an answer
const HEADS = ["Entry", "Status", "Tries", "Age", "Item", "Last error"];

let views = 0;

function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function render({ model, el }) {
  const view = `${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}-${views++}`;
  const alarm = make("div", { role: "alert", class: "gone" });
  const canvas = make("div", { role: "presentation", class: "canvas" });
  const body = make("div", { role: "rowgroup", class: "body" }, canvas);
  const head = make("div", { role: "row", class: "row head", "aria-rowindex": "1" });
  for (const name of HEADS) head.append(make("div", { role: "columnheader", class: "cell" }, name));
  const grid = make("div", { role: "grid", "aria-label": "Entries", "aria-colcount": String(HEADS.length) });
  grid.append(make("div", { role: "rowgroup" }, head), body);
  const below = make("p", { class: "below" });
  const root = make("div", { class: "outbox-table" }, alarm, grid, below);
  el.append(root);

  let told = { start: 0, total: 0, rows: [], selected: null, only: null, ...(model.get("first") || {}) };
  let asked = 0; // the last number given
  let since = null; // when the oldest question without an answer was asked
  let active = 0; // index of the row that the keyboard is at
  let activeId = null;
  let wanted = { start: 0, count: 0 };
  const rows = [];

  function ask() {
    asked += 1;
    since ??= performance.now();
    grid.setAttribute("aria-busy", "true");
    model.send({ type: "window", view, number: asked, ...wanted });
  }

  function look(always = false) {
    const first = Math.floor(body.scrollTop / ROW);
    const start = Math.max(0, first - MARGIN);
    const count = Math.ceil((body.clientHeight || 330) / ROW) + 2 * MARGIN;
    if (always || start !== wanted.start || count !== wanted.count) {
      wanted = { start, count };
      ask();
    }
    show();
  }

  function rowAt(number) {
    while (rows.length <= number) {
      const row = make("div", { role: "row", class: "row" });
      for (const _ of HEADS) row.append(make("div", { role: "gridcell", class: "cell" }));
      rows.push(row);
      canvas.append(row);
    }
    return rows[number];
  }

  function put(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  function show() {
    const { start, total, selected } = told;
    const shown = told.rows.slice(0, Math.max(0, total - start));
    const hasFocus = canvas.contains(document.activeElement);
    const followed = shown.findIndex((row) => row[0] === activeId);
    if (followed >= 0) active = start + followed;
    active = Math.min(active, Math.max(0, total - 1));
    const reachable = active >= start && active < start + shown.length ? active : start;
    canvas.style.height = `${total * ROW}px`;
    grid.setAttribute("aria-rowcount", String(total + 1));
    shown.forEach(([id, ...texts], number) => {
      const row = rowAt(number);
      row.hidden = false;
      row.style.transform = `translateY(${(start + number) * ROW}px)`;
      row.dataset.index = String(start + number);
      row.dataset.status = texts[1].split(" ")[0];
      row.setAttribute("aria-rowindex", String(start + number + 2));
      row.setAttribute("aria-selected", String(id === selected));
      row.tabIndex = start + number === reachable ? 0 : -1;
      texts.forEach((text, column) => {
        put(row.children[column], String(text));
        row.children[column].title = column === 0 || column > 3 ? String(text) : "";
      });
    });
    rows.slice(shown.length).forEach((row) => {
      row.hidden = true;
      row.tabIndex = -1;
    });
    if (hasFocus && shown.length) rows[reachable - start].focus({ preventScroll: true });
    const top = Math.min(Math.floor(body.scrollTop / ROW), Math.max(0, total - 1));
    const bottom = Math.min(total, top + Math.max(1, Math.floor(body.clientHeight / ROW)));
    const none = told.only ? `Nothing is ${told.only}.` : "Nothing is waiting.";
    const words = `${(top + 1).toLocaleString("en")}–${bottom.toLocaleString("en")} of ${total.toLocaleString("en")}`;
    put(below, total ? words : none);
    grid.hidden = total === 0;
  }

  function goTo(index) {
    active = Math.max(0, Math.min(told.total - 1, index));
    const top = active * ROW;
    if (top < body.scrollTop) body.scrollTop = top;
    if (top + ROW > body.scrollTop + body.clientHeight) body.scrollTop = top + ROW - body.clientHeight;
    const known = told.rows[active - told.start];
    activeId = known ? known[0] : null;
    look();
    rows[active - told.start]?.focus({ preventScroll: true });
  }

  function choose(row) {
    const index = Number(row.dataset.index);
    const known = told.rows[index - told.start];
    if (!known) return;
    active = index;
    activeId = known[0];
    model.send({ type: "select", id: known[0] });
  }

  body.addEventListener("scroll", () => look(), { passive: true });
  canvas.addEventListener("click", (event) => {
    const row = event.target.closest(".row");
    if (row) choose(row);
  });
  canvas.addEventListener("keydown", (event) => {
    const page = Math.max(1, Math.floor(body.clientHeight / ROW) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (event.key in steps) goTo(active + steps[event.key]);
    else if (event.key === "Enter" || event.key === " ") choose(event.target.closest(".row"));
    else return;
    event.preventDefault();
    event.stopPropagation();
  });

  // What a hidden tab does not see it need not ask for; 10 s of silence is a kernel that is busy, or gone.
  function silence(words) {
    put(alarm, words);
    root.closest(".outbox-panel")?.classList.toggle("outbox-silent", words !== "");
  }

  function listen(content) {
    if (content.type !== "rows" || content.view !== view) return;
    if (content.number !== null && content.number < asked && content.start !== wanted.start) return;
    if (content.number === asked) since = null;
    grid.setAttribute("aria-busy", String(since !== null));
    told = content;
    silence("");
    if (content.number === null && content.start !== wanted.start) return;
    show();
  }

  function gone() {
    silence("The kernel is gone. What was stored is safe: restart the kernel and run the cell again.");
  }

  const timer = setInterval(() => {
    if (document.hidden) return;
    if (since !== null && performance.now() - since > PATIENCE && !alarm.textContent.includes("gone")) {
      silence("The kernel does not answer: it is busy with a cell, or gone. What was stored is safe.");
    }
    name();
    ask();
  }, ASK_EVERY);

  // ipywidgets gives a slider no name, a box no role; what it leaves out is put in here.
  function name() {
    const panel = root.closest(".outbox-panel");
    if (!panel) return;
    panel.setAttribute("role", "region");
    panel.setAttribute("aria-label", model.get("title"));
    for (const handle of panel.querySelectorAll(".noUi-handle")) {
      const label = handle.closest(".jupyter-widgets").querySelector("label");
      if (label) handle.setAttribute("aria-label", label.textContent);
    }
    for (const input of panel.querySelectorAll(".outbox-switch input")) input.setAttribute("role", "switch");
  }

  const sized = new ResizeObserver(() => {
    name();
    look();
  });
  sized.observe(body);
  model.on("msg:custom", listen);
  model.on("comm_live_update", gone);
  show();
  look(true);

  return () => {
    clearInterval(timer);
    sized.disconnect();
    model.off("msg:custom", listen);
    model.off("comm_live_update", gone);
    model.send({ type: "gone", view });
  };
}

export default { render };
