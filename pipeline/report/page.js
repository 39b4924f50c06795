"use strict";
// What the page does beyond being read: filter and sort the table, show a mark's words, hide a category of the map.
// It makes no HTML: text is only ever set as text.
(() => {
  const table = document.getElementById("table");
  if (table) {
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => ({ row, text: row.textContent.toLowerCase(), label: row.dataset.label }));
    const find = document.getElementById("find");
    const label = document.getElementById("label");
    const shown = document.getElementById("shown");
    const number = new Intl.NumberFormat("en");
    const filter = () => {
      const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
      let count = 0;
      for (const each of rows) {
        const fits = (!label || !label.value || each.label === label.value) && words.every((word) => each.text.includes(word));
        each.row.hidden = !fits;
        count += fits;
      }
      shown.textContent = `${number.format(count)} of ${number.format(rows.length)} shown`;
    };
    find.addEventListener("input", filter);
    if (label) label.addEventListener("change", filter);
    document.getElementById("filters").hidden = false;
    filter();

    const heads = [...table.tHead.rows[0].cells].slice(0, -1);
    const value = (row, column) => {
      const cell = row.cells[column];
      return cell.dataset.value === undefined ? cell.textContent : cell.dataset.value === "" ? NaN : Number(cell.dataset.value);
    };
    const compare = (a, b) => {
      if (typeof a === "number") return Number.isNaN(a) - Number.isNaN(b) || a - b;
      return a.localeCompare(b, "en", { numeric: true });
    };
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.textContent = "";
      head.append(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((each) => each.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const sorted = rows.map((each) => each.row).sort((a, b) => compare(value(a, column), value(b, column)));
        body.append(...(up ? sorted : sorted.reverse()));
      });
    });
  }

  for (const box of document.querySelectorAll("[data-layer]")) {
    box.addEventListener("change", () => {
      for (const layer of document.querySelectorAll(`.map .${box.dataset.layer}`)) {
        layer.style.display = box.checked ? "" : "none";
      }
    });
  }

  const tip = document.getElementById("tip");
  document.addEventListener("pointermove", (event) => {
    const mark = event.target.closest ? event.target.closest("svg.chart path[data-say]") : null;
    tip.hidden = !mark;
    if (!mark) return;
    tip.textContent = mark.getAttribute("data-say");
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 12, innerWidth - box.width - 4))}px`;
    tip.style.top = `${event.clientY + 18 + box.height > innerHeight ? event.clientY - box.height - 10 : event.clientY + 18}px`;
  });

  const theme = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let isDark = dark.matches;
  const name = () => { theme.textContent = isDark ? "Light theme" : "Dark theme"; };
  theme.addEventListener("click", () => {
    isDark = !isDark;
    document.documentElement.style.colorScheme = isDark ? "dark" : "light";
    name();
  });
  dark.addEventListener("change", () => { isDark = dark.matches; document.documentElement.style.colorScheme = ""; name(); });
  theme.hidden = false;
  name();
})();
