package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/browser"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/redistest/history"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/router"
)

// board is the dashboard in a browser, as an operator has it before them.
type board struct {
	tb   testing.TB
	page *browser.Page
	web  string // HOST:PORT
	dir  string // for pictures; "": none are made
}

// newBoard starts a Chromium that will show the dashboard at web; without a Chromium the
// test is skipped.
func newBoard(t *testing.T, web string) *board {
	t.Helper()
	path, err := browser.Find()
	if err != nil {
		t.Skip(err)
	}
	profile, err := os.MkdirTemp("", "cfweb")
	if err != nil {
		t.Fatal(err)
	}
	b, err := browser.Start(path, profile)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.Close()
		_ = os.RemoveAll(profile)
	})
	d := &board{tb: t, web: web, dir: os.Getenv("E2E_PICTURES")}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if d.page, err = b.Open(ctx); err != nil {
		t.Fatal(err)
	}
	d.do(d.page.Show(ctx, 1280, 900, false))
	return d
}

// load loads the dashboard.
func (d *board) load() {
	d.tb.Helper()
	d.do(d.page.Go(d.tb.Context(), "http://"+d.web+"/"))
}

func (d *board) do(err error) {
	d.tb.Helper()
	if err != nil {
		d.tb.Fatal(err)
	}
}

// awaits waits until what is to be read at a selector holds a text.
func (d *board) awaits(selector, want string) {
	d.tb.Helper()
	redistest.Eventually(d.tb, time.Minute, func() error {
		text, err := d.page.Text(d.tb.Context(), selector)
		if err == nil && !strings.Contains(text, want) {
			err = fmt.Errorf("%s says %q and not %q; the focus: %s; the page: %.600s", selector, text, want, d.focus(), d.reads("main"))
		}
		return err
	}, "reading the page")
}

func (d *board) reads(selector string) string {
	text, _ := d.page.Text(d.tb.Context(), selector)
	return text
}

// press clicks at a button as soon as it can be used.
func (d *board) press(selector string) {
	d.tb.Helper()
	redistest.Eventually(d.tb, time.Minute, func() error { return d.page.Click(d.tb.Context(), selector) }, "clicking")
}

// act presses an action, reads what it says that it will do, types the word, and does it.
func (d *board) act(id, says, word, done string) {
	d.tb.Helper()
	d.press("#do-" + id)
	d.awaits("#ask", says)
	d.awaits("#ask", "The way back:")
	if word != "" {
		if err := d.page.Click(d.tb.Context(), "#ask-do"); err == nil || !strings.Contains(err.Error(), "disabled") {
			d.tb.Fatalf("%s can be done before the word was typed: %v", id, err)
		}
		d.press("#ask-word")
		d.do(d.page.Type(d.tb.Context(), word))
		if d.dir != "" {
			d.do(d.page.Picture(d.tb.Context(), filepath.Join(d.dir, "ask-"+id+".png")))
		}
	}
	d.press("#ask-do")
	d.awaits("#outcome-title", done)
	d.tb.Logf("%s: %s", id, d.reads("#outcome-title"))
}

// ready waits until the page says that a switch can be made.
func (d *board) ready(verb string) {
	d.tb.Helper()
	d.awaits("#switch-lead", "A "+verb+" can be made now")
}

// station is at which the page says that the migration stands.
func (d *board) station(want string) {
	d.tb.Helper()
	d.awaits(`#stations [aria-current=step] .name`, want)
}

// pictures makes the page's pictures, and checks that it is no wider than its window.
func (d *board) pictures(name string) {
	d.tb.Helper()
	ctx := d.tb.Context()
	for _, width := range []int{1280, 390} {
		for _, dark := range []bool{false, true} {
			d.do(d.page.Show(ctx, width, 900, dark))
			var over float64
			d.do(d.page.Eval(ctx, `document.documentElement.scrollWidth - document.documentElement.clientWidth`, &over))
			if over > 0 {
				d.tb.Errorf("%s: at %d the page is %v pixels too wide", name, width, over)
			}
			if d.dir == "" {
				continue
			}
			scheme := map[bool]string{false: "light", true: "dark"}[dark]
			d.do(d.page.Picture(ctx, filepath.Join(d.dir, fmt.Sprintf("%s-%d-%s.png", name, width, scheme))))
		}
	}
	d.do(d.page.Show(ctx, 1280, 900, false))
	d.axe(name)
}

// clean checks that the page has asked nobody but us, and had no complaint.
func (d *board) clean() {
	d.tb.Helper()
	asked := d.page.Asked()
	if len(asked) < 5 {
		d.tb.Errorf("only %d requests were seen: %q", len(asked), asked)
	}
	for _, text := range asked {
		if u, err := url.Parse(text); err != nil || u.Host != d.web {
			d.tb.Errorf("the page has asked %s", text)
		}
	}
	for _, text := range d.page.Problems() {
		if !strings.Contains(text, "the server responded with a status of 401") { // before there was a token
			d.tb.Errorf("the browser complains: %s", text)
		}
	}
}

// TestDashboard drives a whole migration from the page only, under load: preflight, watch,
// dry run, rehearse, cut over, roll back, cut over, complete.
func TestDashboard(t *testing.T) {
	src, dst := redistest.Start(t), redistest.Start(t)
	for _, db := range []int{0, 3, 7} {
		pipe := src.Client(db).Pipeline()
		for i := range 4000 {
			pipe.Set(t.Context(), fmt.Sprint("seed:", i), strings.Repeat("v", 20+i%200), 0)
		}
		if _, err := pipe.Exec(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	web := freeAddr(t)
	d := newBoard(t, web)
	c := newSidecar(t, setup{source: src.URL(0), target: dst.URL(0), dbmap: dbmap, extra: []string{"--admin.web", web, "--verify.interval", "1s", "--sync.keys_per_second", "1000"}})
	c.start("")
	c.await("the copy", func(s migration.Status) bool { return s.Phase == migration.Copying })
	d.load()
	through := startLoad(t, history.Config{Addr: c.addr, Databases: []int{0, 3, 7}, Writers: 4, Prefix: "app", MaxRate: 100})

	// Watch.
	d.awaits("#link", "Live")
	d.awaits("#end-source", "clients are here")
	d.awaits("#role", "You may change things")
	d.station("First copy")
	d.awaits("#databases", "3 → 5")
	d.awaits("#switch-lead", "A cutover cannot be made now")
	d.awaits(`[data-gate=copy]`, "the first copy is under way")
	d.act("pause", "No more keys are scanned", "", "The scan rests")
	d.awaits("#copy-notes", "The scan of keys rests")
	d.pictures("copying")
	d.act("go-on", "Keys are scanned again", "", "The scan goes on")
	d.station("Following")
	d.ready("cutover")
	d.awaits("#traffic", "/s")

	// Preflight.
	d.act("check", "No setting is changed", "", "Nothing stands in the way")
	d.awaits("#findings", "fine")
	d.awaits(`[data-gate=preflight]`, "looked at")

	// What does not move anybody.
	d.ready("cutover")
	d.act("dry-run", "It ends before clients would wait", "", "a cutover can be made now")
	d.ready("cutover")
	d.act("rehearse", "Clients are held", "", "The rehearsal went well")
	d.awaits("#report", "Rehearsal of a cutover")
	d.awaits("#report", "about")
	d.awaits("#end-source", "clients are here")
	d.act("verify", "Each key is read on both servers", "", "")
	d.awaits("#outcome-title", "No difference")
	d.pictures("ready")

	// There, back and there again.
	d.move(c, "cutover", "the source stops taking writes", "The cutover is done: clients are on the target", router.Target)
	d.station("On the target")
	d.awaits("#back", "open. A rollback brings the clients to the source again")
	d.awaits("#end-source", "closed for others")
	d.pictures("moved")
	d.move(c, "rollback", "the target stops taking writes", "The rollback is done: clients are on the source", router.Source)
	d.move(c, "cutover", "the source stops taking writes", "The cutover is done: clients are on the target", router.Target)

	// What the page shows is what the status says.
	st := must[migration.Status](t)(c.status())
	for _, step := range st.LastCutover.Steps {
		if text := d.reads("#report .steps"); step.Name == "journal" && !strings.Contains(text, "note the decision") {
			t.Errorf("the steps do not show the journal: %s", text)
		}
	}

	d.ready("rollback")
	through.mustHold(t, dst.Addr(), mapping(dbmap))
	c.await("nothing dirty", func(s migration.Status) bool { return s.Dirty == 0 })
	d.act("complete", "there is none afterwards", "complete", "The migration is complete")
	d.station("Completed")
	d.awaits("#phase", "The migration is complete")
	if phase := must[migration.Status](t)(c.status()).Phase; phase != migration.Completed {
		t.Errorf("after complete: %s", phase)
	}
	d.awaits("#audit", "asks: complete")
	d.awaits("#audit", "(dashboard)")
	d.pictures("completed")
	d.clean()
	equalSides(t, src, dst, dbmap)
}

// move makes a switch from the page and checks where the clients are.
func (d *board) move(c *sidecar, verb, says, done string, to router.Side) {
	d.tb.Helper()
	d.ready(verb)
	d.act(verb, says, verb, done)
	if side := must[migration.Status](d.tb)(c.status()).Side; side != to {
		d.tb.Fatalf("after the %s clients are on the %s", verb, side)
	}
	d.awaits("#end-"+to.String(), "clients are here")
	d.awaits("#report", "Longest wait of a client")
	d.awaits("#report", "close the old server for writes")
}

// TestDashboardForLooking: who may only look is asked for the token, sees all, and has no
// button that can be used; and nothing works when the sidecar is gone.
func TestDashboardForLooking(t *testing.T) {
	src, dst := redistest.Start(t), redistest.Start(t)
	web := freeAddr(t)
	c := newSidecar(t, setup{source: src.URL(0), target: dst.URL(0), extra: []string{"--admin.web", web, "--admin.token", "everything", "--admin.view_token", "lookonly"}})
	c.withToken("everything")
	d := newBoard(t, web)
	c.start("")
	c.awaitReady()
	d.load()
	ctx := t.Context()
	d.awaits("#login", "Who is there?")
	enter := func(token string) {
		d.press("#token")
		d.do(d.page.Type(ctx, token))
		d.do(d.page.Press(ctx, "Enter"))
	}
	enter("wrong")
	d.awaits("#login-why", "The token is wrong")
	d.pictures("login")
	enter("lookonly")
	d.ready("cutover")
	d.awaits("#role", "You may look only")
	var enabled []string
	d.do(d.page.Eval(ctx, `[...document.querySelectorAll('.actions button:enabled')].filter(b => b.offsetParent).map(b => b.id)`, &enabled))
	if len(enabled) > 0 {
		t.Errorf("these can be pressed: %q", enabled)
	}
	d.awaits("#actions-why", "may look only")
	d.clean()
	c.kill()
	d.awaits("#outage", "cannot be reached")
	c.start("")
	d.awaits("#link", "Live")
}

// TestDashboardByKeys: all of it can be reached and worked without a mouse.
func TestDashboardByKeys(t *testing.T) {
	src, dst := redistest.Start(t), redistest.Start(t)
	web := freeAddr(t)
	c := newSidecar(t, setup{source: src.URL(0), target: dst.URL(0), extra: []string{"--admin.web", web}})
	d := newBoard(t, web)
	c.start("")
	c.awaitReady()
	d.load()
	ctx := t.Context()
	d.ready("cutover")
	// The first thing that has the focus leads past the head.
	d.do(d.page.Press(ctx, "Tab"))
	if at := d.focus(); at != "Skip to where it stands" {
		t.Errorf("the first Tab leads to %q", at)
	}
	d.tabTo("Cut over …")
	d.do(d.page.Press(ctx, "Enter"))
	d.awaits("#ask", "What will happen")
	// The focus is in the field, stays in the dialog, and Escape leads back.
	for range 8 {
		d.do(d.page.Press(ctx, "Tab"))
		var inside bool
		d.do(d.page.Eval(ctx, `document.activeElement === document.body || document.querySelector('#ask').contains(document.activeElement)`, &inside))
		if !inside {
			t.Errorf("the focus has left the dialog for %q", d.focus())
		}
	}
	d.do(d.page.Press(ctx, "Escape"))
	redistest.Eventually(t, 10*time.Second, func() error {
		if at := d.focus(); at != "Cut over …" {
			return fmt.Errorf("after Escape the focus is at %q", at)
		}
		return nil
	}, "leaving the dialog")
	d.do(d.page.Press(ctx, "Enter"))
	d.awaits("#ask", "What will happen")
	d.do(d.page.Type(ctx, "cutover"))
	d.do(d.page.Press(ctx, "Enter"))
	d.awaits("#outcome-title", "The cutover is done")
	if at := d.focus(); !strings.Contains(at, "The cutover is done") {
		t.Errorf("the focus is at %q", at)
	}
	d.awaits("#said", "lients are on the target") // for screen readers, in one of two sentences
	d.names()
	d.clean()
}

// focus is what has it.
func (d *board) focus() (text string) {
	d.tb.Helper()
	d.do(d.page.Eval(d.tb.Context(), `(document.activeElement?.textContent || document.activeElement?.id || '').trim()`, &text))
	return text
}

// tabTo presses Tab until something is reached.
func (d *board) tabTo(text string) {
	d.tb.Helper()
	for range 60 {
		if d.focus() == text {
			return
		}
		d.do(d.page.Press(d.tb.Context(), "Tab"))
	}
	d.tb.Fatalf("%q cannot be reached with Tab", text)
}

// axe has axe-core look at the page as it stands, where E2E_AXE names its script.
func (d *board) axe(name string) {
	d.tb.Helper()
	path := os.Getenv("E2E_AXE")
	if path == "" {
		return
	}
	script, err := os.ReadFile(path)
	if err != nil {
		d.tb.Fatal(err)
	}
	ctx := d.tb.Context()
	d.do(d.page.Eval(ctx, string(script)+"; true", nil))
	for _, dark := range []bool{false, true} {
		d.do(d.page.Show(ctx, 1280, 900, dark))
		var found []string
		d.do(d.page.Eval(ctx, `axe.run().then((r) => r.violations.map((v) => v.id + ': ' + v.help + ': ' + v.nodes.map((n) => n.html).join(' | ').slice(0, 400)))`, &found))
		for _, text := range found {
			d.tb.Errorf("%s, dark %v: %s", name, dark, text)
		}
	}
	d.do(d.page.Show(ctx, 1280, 900, false))
}

// names checks what a screen reader goes by: landmarks, one h1, headings without a gap,
// and a name for whatever can be worked, drawn or scrolled.
func (d *board) names() {
	d.tb.Helper()
	var wrong []string
	d.do(d.page.Eval(d.tb.Context(), `(() => {
		const wrong = [];
		const shown = (n) => n.checkVisibility();
		for (const mark of ['main', 'header', 'footer']) if (document.querySelectorAll('body > ' + mark).length !== 1) wrong.push('landmark ' + mark);
		if (document.querySelectorAll('h1').length !== 1) wrong.push('h1');
		let level = 1;
		for (const h of [...document.querySelectorAll('h1, h2, h3')].filter(shown)) {
			if (+h.tagName[1] > level + 1) wrong.push('a gap before the heading ' + h.textContent);
			level = +h.tagName[1];
		}
		const name = (n) => n.getAttribute('aria-label') || n.textContent.trim() || (n.labels && n.labels[0]?.textContent) ||
			document.getElementById(n.getAttribute('aria-labelledby'))?.textContent || '';
		for (const n of document.querySelectorAll('button, input, a, progress, [role=img], [tabindex="0"], section')) if (shown(n) && !name(n)) wrong.push(n.outerHTML.slice(0, 120));
		for (const n of document.querySelectorAll('[aria-labelledby], [aria-describedby]')) for (const a of ['aria-labelledby', 'aria-describedby'])
			if (n.hasAttribute(a) && !document.getElementById(n.getAttribute(a))) wrong.push(a + ' of ' + n.id);
		const ids = [...document.querySelectorAll('[id]')].map((n) => n.id);
		for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) wrong.push('twice: #' + id);
		if (document.documentElement.lang !== 'en') wrong.push('lang');
		return wrong;
	})()`, &wrong))
	slices.Sort(wrong)
	if wrong = slices.Compact(wrong); len(wrong) > 0 {
		d.tb.Errorf("for a screen reader: %q", wrong)
	}
	for _, dark := range []bool{false, true} {
		d.do(d.page.Show(d.tb.Context(), 1280, 900, dark))
		d.contrast(dark)
	}
}

// contrast checks that each text stands out from what is behind it: 4.5 to 1.
func (d *board) contrast(dark bool) {
	d.tb.Helper()
	var weak []string
	d.do(d.page.Eval(d.tb.Context(), `(() => {
		const parts = (c) => c.match(/[\d.]+/g).map(Number);
		const light = ([r, g, b]) => { const f = [r, g, b].map((v) => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; }); return .2126 * f[0] + .7152 * f[1] + .0722 * f[2]; };
		const behind = (n) => { for (; n; n = n.parentElement) { const c = parts(getComputedStyle(n).backgroundColor); if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
		const weak = new Set();
		const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
		for (let t = walk.nextNode(); t; t = walk.nextNode()) {
			const n = t.parentElement;
			if (!t.textContent.trim() || !n.checkVisibility() || n.closest('.sr, .skip, :disabled')) continue;
			const style = getComputedStyle(n);
			const [a, b] = [light(parts(n instanceof SVGElement ? style.fill : style.color)), light(behind(n))].sort((x, y) => y - x);
			const ratio = (a + .05) / (b + .05);
			if (ratio < 4.5) weak.add(n.tagName + '.' + (n.getAttribute('class') || '') + ' ' + ratio.toFixed(2) + ': ' + t.textContent.trim().slice(0, 40));
		}
		return [...weak];
	})()`, &weak))
	if len(weak) > 0 {
		d.tb.Errorf("dark %v: hard to read: %q", dark, weak)
	}
}

// withToken has the test's own client show a token.
func (c *sidecar) withToken(token string) {
	c.tb.Helper()
	i := slices.Index(c.args, "--admin")
	if i < 0 {
		c.tb.Fatal(errors.New("the sidecar has no admin address"))
	}
	c.admin.Close()
	client, err := admin.NewClient(config.Admin{Address: c.args[i+1], Token: config.Secret(token)})
	if err != nil {
		c.tb.Fatal(err)
	}
	c.admin = client
}
