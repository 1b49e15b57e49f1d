import { signal } from "@preact/signals";
import { address, loginCode, parse, type View } from "./address";
import { access, fleet, login, logout } from "./api";
import { Role } from "./gen/swanherd/v1/access_service_pb";
import { FleetStore } from "./store";
import { type Connection, follow } from "./stream";

/** How often ages and staleness are looked at again, in ms. */
const tickEvery = 500;

/** Page is the state behind the screen: the session, the view, the fleet. */
export class Page {
  readonly store = new FleetStore();
  /** Counts up with every change of the store. */
  readonly data = signal(0);
  /** The viewer's monotonic clock, in ms. */
  readonly now = signal(performance.now());
  readonly connection = signal<Connection>({ state: "connecting", attempt: 0, retryAt: 0 });
  readonly view = signal<View>(parse(location.pathname, location.search));
  /** Why signing in did not work; empty when it did. */
  readonly refusal = signal("");
  /** Why signing out did not work; empty when it did. */
  readonly stuck = signal("");
  /** The role of the session, in a word. */
  readonly role = signal("");
  private session = new AbortController();
  private build = "";
  private drawing = false;

  /** start begins a session and keeps the page going; the answer stops it. */
  start(): () => void {
    const stop = new AbortController();
    const back = () => {
      this.view.value = parse(location.pathname, location.search);
    };
    // A sign-in link pasted into a page of the same address does not reload it.
    const pasted = () => {
      if (loginCode(location.hash) !== undefined) void this.begin();
    };
    addEventListener("popstate", back, { signal: stop.signal });
    addEventListener("hashchange", pasted, { signal: stop.signal });
    const timer = setInterval(() => {
      this.now.value = performance.now();
    }, tickEvery);
    void this.begin();
    return () => {
      clearInterval(timer);
      stop.abort();
      this.session.abort();
    };
  }

  /** begin signs in if the address holds a code, and follows the fleet. */
  private async begin(): Promise<void> {
    this.session.abort();
    const session = new AbortController();
    this.session = session;
    this.store.clear();
    this.data.value++;
    this.connection.value = { state: "connecting", attempt: 0, retryAt: 0 };
    const code = loginCode(location.hash);
    if (code !== undefined) {
      // Out of the address first: it is nobody's to copy or to reload.
      history.replaceState(null, "", location.pathname + location.search);
      this.refusal.value = (await login(code)) ?? "";
    }
    void this.learnRole(session.signal);
    const watch = (signal: AbortSignal) => fleet.watchFleet({ parent: "networks/-" }, { signal });
    await follow(watch, this.store, (c) => this.changed(c), session.signal);
  }

  private changed(c: Connection): void {
    const build = this.store.build;
    if (this.build !== "" && build !== this.build) location.reload();
    this.build = build;
    this.connection.value = c;
    this.now.value = performance.now();
    this.redraw();
  }

  /** redraw at most once per frame of the screen, however many the stream has brought. */
  private redraw(): void {
    if (this.drawing) return;
    this.drawing = true;
    requestAnimationFrame(() => {
      this.drawing = false;
      this.data.value++;
    });
  }

  private async learnRole(signal: AbortSignal): Promise<void> {
    try {
      const me = await access.whoAmI({}, { signal });
      this.role.value = (Role[me.role] ?? "").toLowerCase();
    } catch {
      this.role.value = ""; // the stream says what is wrong
    }
  }

  /** signOut ends the session; the page then says that there is none. */
  async signOut(): Promise<void> {
    this.refusal.value = "";
    this.stuck.value = (await logout()) ?? "";
    if (this.stuck.value === "") await this.begin();
  }

  /** show goes to a view; with replace it takes the current one's place in the history. */
  show(next: View, replace = false): void {
    this.view.value = next;
    if (replace) history.replaceState(null, "", address(next));
    else history.pushState(null, "", address(next));
  }
}
