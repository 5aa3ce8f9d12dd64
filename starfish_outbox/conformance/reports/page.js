
"use strict";
// Without this script the page has no filters, and a cell is a link to what is behind it: CSS shows what a link targets.
document.documentElement.classList.add("js");

const cells = [...document.querySelectorAll("a.cell")];
let opened = null;

function articleOf(cell) {
  return document.getElementById(cell.hash.slice(1));
}

function fold() {
  if (!opened) return null;
  const cell = opened;
  const article = articleOf(cell);
  article.classList.remove("open");
  article.closest(".detail").classList.remove("open");
  for (const same of cells) if (same.hash === cell.hash) same.setAttribute("aria-expanded", "false");
  opened = null;
  return cell;
}

function unfold(cell) {
  fold();
  const article = articleOf(cell);
  article.classList.add("open");
  article.closest(".detail").classList.add("open");
  for (const same of cells) if (same.hash === cell.hash) same.setAttribute("aria-expanded", "true");
  opened = cell;
}

function remember(hash) {
  try {
    history.replaceState(null, "", hash || location.pathname + location.search);
  } catch {
    // a page in a sandbox may not change its address: then there is no link to what is open
  }
}

function close() {
  const cell = fold();
  if (!cell) return;
  remember("");
  cell.focus();
}

function followHash() {
  const cell = cells.find((one) => one.hash === location.hash);
  if (!cell) return;
  const row = cell.closest("tr");
  if (row.hidden) showAll();
  unfold(cell);
  cell.focus({ preventScroll: true });
  row.scrollIntoView();
}

// The heads of the tables stick below the tools; on a narrow screen nothing sticks.
const tools = document.querySelector(".tools");
new ResizeObserver(() => {
  const height = getComputedStyle(tools).position === "sticky" ? tools.offsetHeight : 0;
  document.documentElement.style.setProperty("--tools", `${height}px`);
}).observe(tools);

for (const cell of cells) cell.setAttribute("aria-expanded", "false");

document.addEventListener("click", (event) => {
  const link = event.target.closest("a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  if (link.classList.contains("close")) {
    event.preventDefault();
    close();
  } else if (link.classList.contains("cell")) {
    event.preventDefault();
    if (opened && opened.hash === link.hash) {
      close();
    } else {
      unfold(link);
      remember(link.hash);
    }
  }
});

const arrows = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && opened) {
    event.preventDefault();
    close();
  } else if (arrows[event.key] && event.target.classList.contains("cell")) {
    const [down, right] = arrows[event.key];
    const lines = [...document.querySelectorAll(".matrix tr:has(a.cell)")].filter((row) => row.offsetParent !== null);
    const row = event.target.closest("tr");
    const next = lines[lines.indexOf(row) + down];
    const place = [...row.querySelectorAll("td")].indexOf(event.target.closest("td"));
    const cell = next?.querySelectorAll("td")[place + right]?.querySelector("a.cell");
    if (cell) {
      event.preventDefault();
      cell.focus();
    }
  }
});

const find = document.getElementById("find");
const profile = document.getElementById("profile");
const driver = document.getElementById("driver");
const differs = document.getElementById("differs");
const chips = [...document.querySelectorAll(".chip")];
const rows = [...document.querySelectorAll("tr.case")].map((row) => ({
  row,
  group: row.closest("tbody"),
  profile: row.closest(".profile"),
  text: [row.querySelector("th"), row.closest("tbody").querySelector(".title")]
    .reduce((text, one) => `${text} ${one.textContent}`, row.dataset.rows)
    .toLowerCase(),
  verdicts: row.dataset.verdicts.split(" "),
}));

function fits(one, words, wanted) {
  const verdicts = driver.value === "" ? one.verdicts : [one.verdicts[Number(driver.value)]];
  return (
    (!profile.value || one.profile.dataset.profile === profile.value) &&
    (!wanted.size || verdicts.some((verdict) => wanted.has(verdict))) &&
    (!differs.checked || "differs" in one.row.dataset) &&
    words.every((word) => one.text.includes(word))
  );
}

function filter() {
  const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = new Set(chips.filter((chip) => chip.ariaPressed === "true").map((chip) => chip.dataset.verdict));
  const seen = new Set();
  let shown = 0;
  for (const one of rows) {
    const fit = fits(one, words, wanted);
    one.row.hidden = !fit;
    one.row.nextElementSibling.hidden = !fit;
    if (fit) {
      shown += 1;
      seen.add(one.group).add(one.profile);
    }
  }
  for (const { group, profile: section } of rows) {
    group.hidden = !seen.has(group);
    section.hidden = !seen.has(section);
  }
  document.getElementById("shown").textContent = `${shown} of ${rows.length} cases`;
  document.getElementById("none").hidden = shown > 0;
}

function showAll() {
  find.value = profile.value = driver.value = "";
  differs.checked = false;
  for (const chip of chips) chip.ariaPressed = "false";
  filter();
}

for (const chip of chips) {
  chip.addEventListener("click", () => {
    chip.ariaPressed = String(chip.ariaPressed !== "true");
    filter();
  });
}
for (const control of [find, profile, driver, differs]) control.addEventListener("input", filter);
document.getElementById("reset").addEventListener("click", showAll);
addEventListener("hashchange", followHash);
filter();
followHash();
