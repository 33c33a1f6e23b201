// Keys, enlarged pictures, and sending again where the connection is lost. Without it the page is a plain form.
"use strict";

const form = document.querySelector("form.question");
if (form) {
  const groups = [...form.querySelectorAll("fieldset")];
  const send = form.querySelector("button.main");
  const problem = form.querySelector(".problem");
  const dialog = document.querySelector("dialog");
  const kept = "pcpo-" + form.dataset.key;
  const picked = group => group.querySelector("input:checked");
  const next = () => groups.find(group => !picked(group));

  // What is chosen and not yet sent survives a reload; nothing does where the browser keeps nothing.
  const keep = () => {
    try { sessionStorage.setItem(kept, JSON.stringify(groups.map(group => picked(group)?.value ?? null))); } catch {}
  };
  try {
    (JSON.parse(sessionStorage.getItem(kept)) ?? []).forEach((choice, n) => {
      const input = choice && groups[n]?.querySelector(`input[value="${choice}"]`);
      if (input) input.checked = true;
    });
  } catch {}

  const show = () => {
    groups.forEach(group => group.classList.toggle("next", group === next()));
    send.disabled = Boolean(next());
  };
  const changed = () => { keep(); show(); };
  form.addEventListener("change", changed);
  show();

  const choose = choice => {
    const group = next();
    if (!group) return;
    group.querySelector(`input[value="${choice}"]`).checked = true;
    changed();
  };
  const takeBack = () => {
    const last = groups.filter(picked).pop();
    if (!last) return;
    picked(last).checked = false;
    changed();
  };
  const keys = { ArrowLeft: "left", ArrowDown: "same", ArrowRight: "right" };
  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.altKey || event.metaKey || dialog.open || form.dataset.sending) return;
    const radio = event.target.matches("input[type=radio]");  // which the browser's own arrow keys move
    if (event.key in keys && !radio) choose(keys[event.key]);
    else if (event.key === "Backspace") takeBack();
    else if (event.key === "Enter" && !event.repeat && !event.target.closest("button") && !next()) form.requestSubmit();
    else return;
    event.preventDefault();
  });

  document.querySelectorAll(".picture").forEach(button => button.addEventListener("click", () => {
    const small = button.querySelector("img"), large = dialog.querySelector("img");
    large.src = small.src;
    large.alt = small.alt;
    dialog.showModal();
  }));
  dialog.addEventListener("click", () => dialog.close());

  // The server answers once the answer is on its disk. Until then it is sent again; a second copy changes nothing there.
  const say = text => { problem.textContent = text; problem.hidden = !text; };
  const wait = seconds => new Promise(done => setTimeout(done, 1000 * seconds));
  form.addEventListener("submit", async event => {
    event.preventDefault();
    if (form.dataset.sending) return;
    form.dataset.sending = "yes";
    send.disabled = true;
    const body = new URLSearchParams(new FormData(form));
    for (;;) {
      try {
        const reply = await fetch(form.action, { method: "POST", body, redirect: "manual" });
        if (reply.type === "opaqueredirect") {
          try { sessionStorage.removeItem(kept); } catch {}
          location.replace(".");
          return;
        }
        if (reply.status < 500) {
          say(await reply.text());
          delete form.dataset.sending;
          show();
          return;
        }
      } catch {}
      say("No connection to the study. Your answer is kept here and sent again.");
      await wait(1);
    }
  });
}
