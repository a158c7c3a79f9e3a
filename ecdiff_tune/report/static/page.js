"use strict";

/* Tables: a click on a heading sorts by its column, another one the other way round; empty cells stay last. */
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.addEventListener("click", () => {
      const numbers = !heading.classList.contains("word");
      const was = heading.getAttribute("aria-sort");
      const down = was ? was === "ascending" : numbers;
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const body = table.tBodies[0];
      const key = (row) => row.cells[column].dataset.key;
      const rows = [...body.rows].sort((one, two) => {
        const a = key(one), b = key(two);
        if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
        const order = numbers ? a - b : a.localeCompare(b);
        return down ? -order : order;
      });
      body.append(...rows);
    });
  });
}

/* Images: enlarged in a dialog; arrow keys go through the methods and prompts. */
const dialog = document.getElementById("large");
const buttons = [...document.querySelectorAll("button.open")];
let shown = 0;
function show(place) {
  shown = (place + buttons.length) % buttons.length;
  const images = [...buttons[shown].querySelectorAll("img")];
  const image = images.find((one) => one.offsetParent !== null) || images[0];
  const large = dialog.querySelector("img");
  large.src = image.src;
  large.alt = image.alt;
  dialog.querySelector("p").textContent = buttons[shown].dataset.caption;
  if (!dialog.open) dialog.showModal();
}
buttons.forEach((button, place) => button.addEventListener("click", () => show(place)));
dialog.addEventListener("click", () => dialog.close());
dialog.addEventListener("keydown", (event) => {
  if (event.key === "ArrowRight") show(shown + 1);
  if (event.key === "ArrowLeft") show(shown - 1);
});

/* Points of plots tell what they are at once, and on a touch too; without the script the browser's own hint does. */
const hint = document.createElement("p");
hint.id = "hint";
hint.hidden = true;
document.body.append(hint);
function tell(mark) {
  const title = mark && mark.querySelector("title");
  hint.hidden = !title;
  if (!title) return;
  hint.textContent = title.textContent;
  const box = mark.getBoundingClientRect();
  const left = Math.min(box.right + 8, document.documentElement.clientWidth - hint.offsetWidth - 8);
  hint.style.left = `${Math.max(8, left) + scrollX}px`;
  hint.style.top = `${box.bottom + 8 + scrollY}px`;
}
for (const name of ["pointerover", "focusin"]) {
  document.addEventListener(name, (event) => tell(event.target.closest && event.target.closest(".mark")));
}
