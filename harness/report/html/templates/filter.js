// SPDX-License-Identifier: GPL-2.0-only
"use strict";
for (const box of document.querySelectorAll("input[type=search]")) {
  const scope = box.closest("section");
  const rows = [...scope.querySelectorAll("[data-name]")];
  const groups = [...scope.querySelectorAll(".group")];
  if (rows.length < 2) continue;
  box.closest(".hidden").classList.remove("hidden");
  box.addEventListener("input", () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const name = row.dataset.name.toLowerCase();
      row.classList.toggle("hidden", !words.every((word) => name.includes(word)));
    }
    for (const group of groups) {
      const some = group.querySelector("[data-name]:not(.hidden)") !== null;
      group.classList.toggle("hidden", !some);
    }
  });
}
