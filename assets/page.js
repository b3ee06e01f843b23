// What the page needs besides htmx: dialogs that open, close and give the focus back; menus that close.
"use strict";

const dialog = document.getElementById("dialog");

function focusOn(element) {
  if (element) element.focus();
}

// Where the focus goes when what had it is gone.
function land() {
  if (!document.activeElement || document.activeElement === document.body) {
    focusOn(document.getElementById("list-title") || document.getElementById("main"));
  }
}

if (dialog) {
  let opener = null;

  document.body.addEventListener("htmx:beforeRequest", (event) => {
    if (event.detail.target === dialog && !dialog.open) opener = event.detail.elt.id;
  });

  document.body.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target !== dialog) return;
    if (!dialog.open) dialog.showModal();
    focusOn(dialog.querySelector("[autofocus]") || dialog);
  });

  dialog.addEventListener("close", () => {
    dialog.replaceChildren();
    focusOn(opener && document.getElementById(opener));
    land();
  });

  dialog.addEventListener("click", (event) => {
    if (event.target.closest("[data-close]")) {
      event.preventDefault();
      dialog.close();
    }
  });

  document.body.addEventListener("dialog-done", () => dialog.close());
}

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
