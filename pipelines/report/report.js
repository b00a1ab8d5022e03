// Sorts a table by the column whose heading is pressed; without this script the tables stay as they are.
for (const table of document.querySelectorAll("table.sorts")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const body = table.tBodies[0];
      const text = (row) => row.cells[column].textContent.trim();
      const number = (row) => parseFloat((text(row).replaceAll("−", "-").replaceAll(",", "").match(/[-+]?\d[\d.]*/) || [])[0]);
      const compare = head.classList.contains("n")
        ? (a, b) => number(a) - number(b)
        : (a, b) => text(a).localeCompare(text(b));
      const rows = [...body.rows].filter((row) => !row.classList.contains("mean"));
      const empty = (row) => head.classList.contains("n") && Number.isNaN(number(row));
      const full = rows.filter((row) => !empty(row)).sort((a, b) => (down ? -1 : 1) * compare(a, b));
      body.prepend(...full, ...rows.filter(empty));
    });
  });
}
