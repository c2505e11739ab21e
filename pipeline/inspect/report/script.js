// The page also works without this script, which adds the filters, and the sliders between a source and its edits.
"use strict";

const rows = [...document.querySelectorAll(".row")];
const filters = document.querySelector(".filters");
const chips = [...filters.querySelectorAll("button")];
const search = filters.querySelector("input");
const counter = filters.querySelector("output");

function filter() {
  const selected = new Set(chips.filter(chip => chip.ariaPressed === "true").map(chip => chip.value));
  const key = search.value.trim().toLowerCase();
  let shown = 0, all = 0;
  for (const row of rows) {
    const found = row.dataset.key.toLowerCase().includes(key);
    let left = 0;
    for (const edited of row.querySelectorAll(".edited")) {
      edited.hidden = selected.size > 0 && !selected.has(edited.dataset.edit);
      left += !edited.hidden;
      all += 1;
    }
    row.hidden = !found || (selected.size > 0 && left === 0);
    shown += row.hidden ? 0 : left;
  }
  counter.value = `${shown} of ${all} edits`;
}

for (const chip of chips) {
  chip.addEventListener("click", () => {
    chip.ariaPressed = chip.ariaPressed === "true" ? "false" : "true";
    filter();
  });
}
search.addEventListener("input", filter);

for (const row of rows) {
  const source = row.querySelector("img.source");
  for (const edit of source ? row.querySelectorAll("img.edit") : []) {
    const under = source.cloneNode();
    under.className = "under";
    under.alt = "";
    edit.before(under);
    const slider = document.createElement("input");
    Object.assign(slider, {type: "range", min: 0, max: 100, value: 100});
    slider.ariaLabel = `from the source to ${edit.alt}`;
    slider.addEventListener("input", () => {
      edit.style.clipPath = `inset(0 ${100 - slider.value}% 0 0)`;
    });
    edit.parentElement.after(slider);
  }
}

filters.hidden = false;
filter();
