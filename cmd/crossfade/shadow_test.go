package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
)

// TestShadowVerb asks for shadow reads, has them hold a cutover up until enough were
// clean, sees a difference in the status, and ends them.
func TestShadowVerb(t *testing.T) {
	source, target := redistest.Start(t), redistest.Start(t)
	for i := range 10 {
		if err := source.Client(0).Set(t.Context(), fmt.Sprint("k", i), "s3cr3t", 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	cf := startSidecar(t, source, target, "--verify.rate", "0", "--databases", "0=0", "--shadow.clean_reads", "100")
	redistest.Eventually(t, 20*time.Second, func() bool {
		reasons := cf.status(t).Reasons
		return len(reasons) == 1 && strings.Contains(reasons[0], "no reads are compared")
	}, "nothing but the reads holds a cutover up")
	for _, wrong := range []string{"much", "101%", "-1"} {
		must(t, cf.dir, 2, "shadow", wrong)
	}
	must(t, cf.dir, 3, "cutover")
	if r := must(t, cf.dir, 0, "shadow"); r.stdout != "shadow    off\n" {
		t.Errorf("shadow: %s", r.stdout)
	}
	if r := must(t, cf.dir, 0, "shadow", "100%"); !strings.Contains(r.stdout, "shadow    100 % of the reads") {
		t.Errorf("shadow 100%%: %s", r.stdout)
	}
	client := clientOf(t, cf.dir)
	read := func() {
		for i := range 10 {
			client.do("GET", fmt.Sprint("k", i))
		}
	}
	redistest.Eventually(t, 20*time.Second, func() bool { return cf.status(t).Shadow.State == "on" }, "shadow reads are on")
	redistest.Eventually(t, 20*time.Second, func() bool { read(); return cf.status(t).Ready }, "enough reads without a difference")
	if err := target.Client(0).Set(t.Context(), "k7", "another s3cr3t", 0).Err(); err != nil {
		t.Fatal(err)
	}
	redistest.Eventually(t, 20*time.Second, func() bool {
		read()
		return strings.Contains(must(t, cf.dir, 0, "status").stdout, `DIFFERENCE: GET "k7" in database 0`)
	}, "the difference is in the status")
	text := must(t, cf.dir, 0, "shadow").stdout
	if !strings.Contains(text, `GET "k7" in database 0`) || strings.Contains(text, "s3cr3t") || !strings.Contains(text, "string_read") {
		t.Errorf("shadow: %s", text)
	}
	redistest.Eventually(t, 20*time.Second, func() bool { return target.Client(0).Get(t.Context(), "k7").Val() == "s3cr3t" }, "the key is mended")
	if st := cf.status(t); st.Shadow.Keys != 1 || st.Shadow.Examples[0].Kind != "value" || st.Shadow.Differing == 0 {
		t.Errorf("status: %+v", st.Shadow)
	}
	must(t, cf.dir, 0, "shadow", "off", "--json")
	redistest.Eventually(t, 20*time.Second, func() bool { return cf.status(t).Shadow.State == "off" }, "shadow reads are off")
}

// TestShadowPages fit a terminal of 80 columns.
func TestShadowPages(t *testing.T) {
	long := strings.Repeat("why it is so, ", 20)
	st := migration.ShadowStatus{Percent: 100, State: "waiting", Why: long, Equal: 1e12, Clean: 1e12, Behind: 1e12, Differing: 1e12, Unsettled: 1e12, LeftOut: 1e9, Open: 4096,
		Families: []migration.ShadowFamily{{Family: "string_write", Behind: 1e12, Differing: 1e12, Unsettled: 1e12}},
		Examples: []migration.ShadowExample{{Time: time.Now(), Key: long, Command: "zrevrangebyscore", Kind: "missing", Words: long}}}
	r := admin.ShadowReply{ShadowStatus: st, Asked: &admin.ShadowAsked{Reads: 1e12, Differed: 1e12, Failed: 1e12, Skipped: 1e12, FailedWith: map[string]int64{"NOPERM": 1e9, "LOADING": 1e9},
		SourceMS: admin.Times{P50: 99_999, P99: 60_000_000}, Families: []admin.ShadowCount{{Family: "string_write", Equal: 1e12, Differed: 1e12, Failed: 1e12, Skipped: 1e12}}}}
	text := renderShadow(r) + renderStatus(admin.StatusReply{Status: migration.Status{Shadow: st}}, 80)
	for line := range strings.Lines(text) {
		if n := len([]rune(strings.TrimRight(line, "\n"))); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	for _, want := range []string{"100 % of the reads, but not now", "NOPERM 1.0", "DIFFERENCE: ZREVRANGEBYSCORE", "string_write"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}
