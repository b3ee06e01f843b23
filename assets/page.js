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
