// The connection to the scheduler: a page whose driver has come back is loaded again.

const ASK_EVERY = 1000; // milliseconds
const TIMEOUT = 3000; // milliseconds for an answer
const PATIENCE = 8000; // milliseconds that Bokeh gets to connect again to the same scheduler

const pause = () => new Promise((done) => setTimeout(done, ASK_EVERY));

class Connection {
  /** `said(gone)` is called when the scheduler is lost or found. */
  constructor(feed, scheduler, said) {
    this.feed = feed;
    this.document = feed.document;
    this.scheduler = scheduler;
    this.said = said;
    this.lost = false;
    this.document.on_event("client_reconnected", () => this.found());
    this.document.on_event("connection_lost", () => {
      said(true);
      if (!this.lost) this.watch();
      this.lost = true;
    });
  }
  /** Bokeh has connected again, perhaps to another scheduler, whose document it may not read. */
  async found() {
    let scheduler = await this.ask();
    for (; scheduler === null; scheduler = await this.ask()) await pause();
    const other = this.document.get_model_by_name("flame-feed") !== this.feed;
    if (scheduler !== this.scheduler || other) {
      location.reload();
      return;
    }
    this.lost = false;
    this.said(false);
    this.feed.lost += 1; // updates sent meanwhile were lost
  }
  /** Ask for the scheduler at this address until it, or another one, answers. */
  async watch() {
    let since = 0;
    for (;;) {
      await pause();
      if (!this.lost) return;
      const scheduler = await this.ask();
      if (scheduler === null) {
        since = 0;
        continue;
      }
      since ||= Date.now();
      // Bokeh's session has ended with the other scheduler, or after a long silence.
      if (scheduler !== this.scheduler || Date.now() - since > PATIENCE) {
        location.reload();
        return;
      }
    }
  }
  /** The id of the scheduler that answers; null if none does. */
  async ask() {
    try {
      const answer = await fetch(`${location.pathname.replace(/\/$/, "")}/metadata`, {
        cache: "no-store",
        // A closed cluster in the same process may have left connections on which nobody answers.
        signal: AbortSignal.timeout(TIMEOUT),
      });
      return answer.ok ? ((await answer.json()).data?.scheduler ?? "") : null;
    } catch {
      return null;
    }
  }
}
