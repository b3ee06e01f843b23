// What the page needs besides htmx: dialogs that open, close and give the focus back; menus that close; a focus that is
// never lost.
"use strict";

// A one-time code is not for the history of the browser.
if (location.search.includes("code=")) history.replaceState(null, "", location.pathname);

const dialog = document.getElementById("dialog");
const body = document.body;
const byId = (id) => document.getElementById(id);

function focusOn(element) {
  if (element) element.focus({ preventScroll: true });
}

function isLost() {
  return !document.activeElement || document.activeElement === body;
}

// Where the focus goes when what had it is gone: as near to where it was as can be.
function land(place) {
  if (place && place.isConnected) {
    if (!place.hasAttribute("tabindex")) place.tabIndex = -1;
    focusOn(place.querySelector("#dialog-title") || place);
  }
  if (isLost()) focusOn(byId("list-title") || byId("main"));
}

// What has the focus and which menus are open, before a part of the page is replaced.
let before = { held: body, place: null, menus: [] };

body.addEventListener("htmx:beforeSwap", () => {
  const held = document.activeElement || body;
  const menus = Array.from(document.querySelectorAll("details.menu[open] > summary"), (summary) => summary.id);
  before = { held, place: held.closest("dialog, .outcome, .card"), menus };
});

body.addEventListener("htmx:afterSwap", () => {
  for (const id of before.menus) {
    const summary = byId(id);
    if (summary) summary.parentElement.open = true;
  }
  if (before.held.isConnected || !isLost()) return;
  focusOn(byId(before.held.id));
  if (isLost()) land(before.place);
});

if (dialog) {
  let opener = "";

  body.addEventListener("htmx:beforeRequest", (event) => {
    if (event.detail.target === dialog && !dialog.open) opener = event.detail.elt.id;
  });

  body.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target !== dialog) return;
    if (!dialog.open) dialog.showModal();
    focusOn(dialog.querySelector("[autofocus]") || dialog);
  });

  dialog.addEventListener("close", () => {
    dialog.replaceChildren();
    const element = byId(opener);
    focusOn(element);
    // It is in a menu that was closed since.
    if (element && isLost()) focusOn(element.closest("details") && element.closest("details").querySelector("summary"));
    if (isLost()) land(null);
  });

  dialog.addEventListener("click", (event) => {
    if (event.target.closest("[data-close]")) {
      event.preventDefault();
      dialog.close();
    }
  });

  body.addEventListener("dialog-done", () => dialog.close());
}

// The reason was for this backup, not for the next one.
body.addEventListener("htmx:afterRequest", (event) => {
  const { elt: form, xhr } = event.detail;
  if (form.matches("form.create") && xhr.status === 200) form.reset();
});

function closeMenus(but) {
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!menu.contains(but)) menu.open = false;
  }
}

document.addEventListener("click", (event) => {
  closeMenus(event.target);
  const item = event.target.closest("details.menu li > *");
  if (item) item.closest("details").open = false;
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  const menu = document.activeElement && document.activeElement.closest("details.menu[open]");
  closeMenus(null);
  if (menu) focusOn(menu.querySelector("summary"));
});

document.addEventListener("focusin", (event) => closeMenus(event.target));

// Any second: the slider and the field say one and the same time, as the clocks of the schedule's zone showed it.
function shownAt(instant, zone) {
  const format = new Intl.DateTimeFormat("en-US", {
    timeZone: zone, hourCycle: "h23", year: "numeric", month: "numeric", day: "numeric",
    hour: "numeric", minute: "numeric", second: "numeric",
  });
  const part = {};
  for (const { type, value } of format.formatToParts(instant)) part[type] = Number(value);
  return Date.UTC(part.year, part.month - 1, part.day, part.hour, part.minute, part.second);
}

// An offset such as +01:00.
function offsetOf(millis) {
  const minutes = Math.round(Math.abs(millis) / 60000);
  const two = (number) => String(number).padStart(2, "0");
  return `${millis < 0 ? "-" : "+"}${two(Math.floor(minutes / 60))}:${two(minutes % 60)}`;
}

function bySlider(form, slider) {
  const instant = Number(form.dataset.first) + 1000 * Number(slider.value);
  const shown = shownAt(instant, form.dataset.zone);
  byId("point-at").value = new Date(shown).toISOString().slice(0, 19);
  byId("point-offset").value = offsetOf(shown - instant);
  slider.setAttribute("aria-valuetext", byId("point-at").value.replace("T", " "));
}

function byField(form, field) {
  // Typed, it may be a time that the clocks showed twice: which is meant is asked then.
  byId("point-offset").value = "";
  const shown = Date.parse(`${field.value}Z`);
  if (Number.isNaN(shown)) return;
  const guess = shown - (shownAt(shown, form.dataset.zone) - shown);
  const instant = guess - (shownAt(guess, form.dataset.zone) - shown);
  byId("point-slider").value = Math.round((instant - Number(form.dataset.first)) / 1000);
}

const slider = byId("point-slider");
if (slider) {
  const field = byId("point-at");
  slider.hidden = false;
  slider.setAttribute("aria-valuetext", field.value.replace("T", " "));
  slider.addEventListener("input", () => bySlider(slider.form, slider));
  field.addEventListener("input", () => byField(field.form, field));
}
