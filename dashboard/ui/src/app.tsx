import { useComputed } from "@preact/signals";
import { useEffect, useMemo, useState } from "preact/hooks";
import { address } from "./address";
import { hasProvider } from "./api";
import { ConnectionBar, Live, StoreBar } from "./connection";
import { AbsentEdges, Announcer, Counts } from "./counts";
import { TunnelDetails } from "./details";
import { base } from "./format";
import { Page } from "./page";
import { freshness, staleAfter } from "./store";
import { TunnelTable } from "./table";

export function App() {
  const page = useMemo(() => new Page(), []);
  useEffect(() => page.start(), [page]);
  if (page.connection.value.state === "signed-out") return <SignedOut reason={page.refusal.value} />;
  return <Screen page={page} />;
}

function Screen({ page }: { page: Page }) {
  const { store, view } = page;
  const rows = useComputed(() => {
    page.data.value;
    return store.rows(view.value.filter);
  });
  const absent = useComputed(() => {
    page.data.value;
    return store.absentEdges();
  });
  const now = page.now.value;
  const silence = store.silence(now);
  // Without news ages stand still: nobody knows what has happened since.
  const time = store.time(silence > staleAfter ? now - silence : now);
  const { filter, tunnel } = view.value;
  return (
    <>
      <header>
        <h1>Swanherd</h1>
        <Live live={silence <= staleAfter && store.staleSince === undefined} time={time} />
        <span class="scope">{store.counts === undefined ? "loading" : `${store.counts.sites} sites`}</span>
        {page.stuck.value !== "" && (
          <span class="stuck" role="alert">
            Not signed out: {page.stuck.value}
          </span>
        )}
        <span class="role">{page.role.value}</span>
        <button type="button" onClick={() => page.signOut()}>
          Sign out
        </button>
      </header>
      <ConnectionBar connection={page.connection.value} silence={silence} time={time} now={now} />
      <StoreBar staleSince={store.staleSince} />
      <main class={freshness(silence, store.staleSince)}>
        <Counts
          counts={store.counts}
          filter={filter}
          onFilter={(f, typing) => page.show({ ...view.value, filter: f }, typing)}
        />
        <AbsentEdges edges={absent.value} time={time ?? 0} />
        <TunnelTable
          rows={rows.value}
          total={store.size}
          synced={store.synced}
          time={time ?? 0}
          href={(name) => address({ filter, tunnel: name })}
          onOpen={(name) => page.show({ filter, tunnel: name })}
        />
        <Announcer counts={store.counts} />
      </main>
      {tunnel !== "" && (
        <TunnelDetails
          key={tunnel}
          name={base(tunnel)}
          tunnel={store.tunnel(tunnel)}
          loading={!store.synced}
          time={time ?? 0}
          onClose={() => page.show({ filter, tunnel: "" })}
        />
      )}
    </>
  );
}

function SignedOut({ reason }: { reason: string }) {
  const [provider, setProvider] = useState(false);
  useEffect(() => {
    hasProvider().then(setProvider);
  }, []);
  return (
    <main class="signed-out">
      <h1>Swanherd</h1>
      {reason !== "" && <p role="alert">Sign-in failed: {reason}.</p>}
      {provider && (
        <p>
          <a href="/auth/oidc">Sign in with your organisation</a>
        </p>
      )}
      <p>You are not signed in. Ask the controller for a sign-in link:</p>
      <pre>swanherd dashboard</pre>
      <p>The link works once. The session's role is viewer, unless the command asks for more.</p>
    </main>
  );
}
