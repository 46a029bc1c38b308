// SPDX-License-Identifier: GPL-2.0-only
"use strict";
for (const box of document.querySelectorAll("input[type=search]")) {
  box.closest(".hidden").classList.remove("hidden");
  const scope = box.closest("section");
  const rows = [...scope.querySelectorAll("[data-name]")];
  const groups = [...scope.querySelectorAll("details.suite")];
  const open = new Map(groups.map((group) => [group, group.open]));
  box.addEventListener("input", () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const name = row.dataset.name.toLowerCase();
      row.classList.toggle("hidden", !words.every((word) => name.includes(word)));
    }
    for (const group of groups) {
      const some = group.querySelector("[data-name]:not(.hidden)") !== null;
      group.classList.toggle("hidden", !some);
      group.open = words.length ? some : open.get(group);
    }
  });
}
