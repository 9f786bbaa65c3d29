"use strict";
for (const button of document.querySelectorAll("button[data-toggle]")) {
  button.disabled = false;
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(shown));
    for (const part of document.querySelectorAll('[data-series="' + button.dataset.toggle + '"]')) {
      part.style.display = shown ? "" : "none";
    }
  });
}
