// What a reader does with an answer, each as the feedback it is. What the page shows as given, the service has.

import { say } from "./dom.js";
import { tell, thumbOf } from "./feedback.js";

export const REASONS = [
  "Not true", "Not what I asked", "Too long", "Too short", "Hard to read", "Harmful or rude", "Something else",
];

const views = new WeakMap();

/** What is open on a turn just now; forgotten with the page. */
export function viewOf(turn) {
  if (!views.has(turn)) views.set(turn, {});
  return views.get(turn);
}

/** The text that counts: a correction, where its reader made one. */
export const textOf = (answer) => answer.edited ?? answer.text;
export const shownOf = (turn) => turn.answers[turn.shown];

/** `changed(turn)` draws and keeps a turn again. */
export function gestures(changed) {
  /** Send; on the service's word `done()`. Says what went wrong, and leaves everything as it was for another try. */
  async function send(turn, [answer, kind, value, more], failure, done) {
    const view = viewOf(turn);
    if (view.busy) return;
    Object.assign(view, { busy: kind, trouble: null, note: null });
    changed(turn);
    try {
      await tell(answer, kind, value, more);
      view.busy = null;
      done(view);
    } catch (error) {
      view.busy = null;
      view.trouble = `${failure} ${error.message}`;
      say(view.trouble);
    }
    changed(turn);
  }

  function open(turn, panel, more = {}) {
    Object.assign(viewOf(turn), { panel, trouble: null, note: null, fresh: true }, more);
    changed(turn);
  }

  return {
    open,

    close(turn) {
      Object.assign(viewOf(turn), { panel: null, trouble: null });
      changed(turn);
    },

    vote(turn, answer, value) {
      return send(turn, [answer, "thumb", value], "Your vote was not taken.", (view) => {
        answer.thumb = value;
        const down = value === false;
        Object.assign(view, down ? { panel: "reasons", reason: null, comment: "", fresh: true } : { panel: null });
        say(value === null ? "Vote taken back." : down ? "Voted down. You may say why." : "Voted up.");
      });
    },

    /** A vote with its reason takes the place of the vote without. */
    explain(turn, answer) {
      const { reason, comment } = viewOf(turn);
      const more = { ...(reason ? { reason } : {}), ...(comment?.trim() ? { comment: comment.trim() } : {}) };
      return send(turn, [answer, "thumb", false, more], "Your reason was not taken.", (view) => {
        Object.assign(view, { panel: null, note: "Thank you for saying why." });
        say(view.note);
      });
    },

    edit(turn, answer) {
      const text = viewOf(turn).draft;
      return send(turn, [answer, "edit", text], "Your correction was not taken.", (view) => {
        answer.edited = text;
        view.panel = null;
        say("Your correction is kept, and the model may learn from it.");
      });
    },

    pick(turn, winner, loser) {
      return send(turn, [winner, "preference", loser.id], "Your choice was not taken.", (view) => {
        winner.over = [...(winner.over ?? []), loser.id];
        turn.shown = turn.answers.indexOf(winner);
        view.panel = null;
        say("Your choice is kept.");
      });
    },

    /** Copy all of an answer, or a piece of code in it. */
    async copy(turn, answer, text = textOf(answer)) {
      const view = viewOf(turn);
      try {
        // Browsers give this to pages of localhost and https only.
        await navigator.clipboard.writeText(text);
      } catch {
        view.trouble = "The browser does not let this page copy. Select the text instead.";
        say(view.trouble);
        changed(turn);
        return;
      }
      await send(turn, [answer, "click", "copy"], "Copied, but the service was not told.", () => {
        view.note = "Copied.";
        say(view.note);
      });
    },

    /** Both must exist before one can be said to have replaced the other. */
    async replaced(turn, old, made) {
      if (!old.id || !made.id) return;
      try {
        await tell(old, "regenerate", made.id);
      } catch (error) {
        viewOf(turn).trouble = `The service was not told that you asked again. ${error.message}`;
        changed(turn);
      }
    },

    /** Ask what the service holds, for votes given elsewhere or whose acknowledgement was lost. */
    async restore(turn) {
      const answer = shownOf(turn);
      if (!answer.id || answer.state === "running") return;
      const thumb = await thumbOf(answer);
      if (thumb === undefined || thumb === answer.thumb || viewOf(turn).busy) return;
      answer.thumb = thumb;
      changed(turn);
    },
  };
}
