"use strict";
for (const filters of document.querySelectorAll(".filters")) {
  const cards = [...filters.parentElement.querySelectorAll(".card")];
  const buttons = [...filters.querySelectorAll("button")];
  const label = filters.querySelector("select");
  const show = () => {
    const outcome = buttons.find((button) => button.getAttribute("aria-pressed") === "true").dataset.outcome;
    for (const card of cards) {
      card.hidden = (outcome && card.dataset.outcome !== outcome) || (label.value && card.dataset.label !== label.value);
    }
    filters.querySelector("output").textContent = `${cards.filter((card) => !card.hidden).length} shown`;
  };
  for (const button of buttons) {
    button.addEventListener("click", () => {
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      show();
    });
  }
  label.addEventListener("change", show);
  filters.hidden = false;
}
