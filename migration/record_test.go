package migration

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
)

func fullRecord() Record {
	notify := ""
	return Record{
		ID: "abc", Token: 1 << 60, Seq: 9, Phase: HardFenced, Side: router.Target, Epoch: 3,
		Switch: &Switch{From: router.Target, To: router.Source},
		Source: "127.0.0.1:1", Target: "127.0.0.1:2", Map: map[int]router.Place{0: {}, 3: {DB: 5}}, LeaveOut: []int{7},
		Servers: [2]Kept{
			{Notify: &notify, User: true, Fence: &FenceState{
				Level: FenceACL, Raised: true, HasSelectors: true,
				Users: []ACLUser{{Name: "app", Commands: "+@all", Selectors: [][]string{{"-@all", "+get", "~x"}}}},
			}},
			{Fence: &FenceState{Level: FenceReplicas, MinReplicas: "0", MaxLag: "10"}},
		},
		Sealed: "00ff", Copied: true,
		LastCutover: &Report{From: router.Source, To: router.Target, OK: true, Steps: []StepTime{{"hold", 1.5, false}}},
		Updated:     time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
	}
}

func TestRecordRoundTrip(t *testing.T) {
	for _, r := range []Record{{}, fullRecord()} {
		e, err := r.entry()
		if err != nil {
			t.Fatal(err)
		}
		if e.ID != r.ID || e.Token != r.Token || e.Seq != r.Seq {
			t.Errorf("the entry is %s %d.%d", e.ID, e.Token, e.Seq)
		}
		got, err := decode(e)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(r, got); diff != "" {
			t.Errorf("the record differs (-want +got):\n%s", diff)
		}
	}
}

// An empty setting of ours to put back is not the same as none.
func TestRecordKeepsAnEmptySetting(t *testing.T) {
	e, err := fullRecord().entry()
	if err != nil {
		t.Fatal(err)
	}
	r, err := decode(e)
	if err != nil {
		t.Fatal(err)
	}
	if n := r.Servers[0].Notify; n == nil || *n != "" {
		t.Errorf(`notify-keyspace-events "" reads as %v`, n)
	}
	if n := r.Servers[1].Notify; n != nil {
		t.Errorf("one that was not changed reads as %q", *n)
	}
}

func TestDecodeGarbage(t *testing.T) {
	for _, data := range []string{``, `{`, `[]`, `{"side":"left"}`, `{"token":-1}`} {
		_, err := decode(store.Entry{ID: "abc", Data: json.RawMessage(data)})
		if err == nil || !strings.Contains(err.Error(), "migration abc") {
			t.Errorf("decoding %q: %v", data, err)
		}
	}
}

func TestRecordCloneSharesNoState(t *testing.T) {
	r := fullRecord()
	c := r.clone()
	c.Servers[0].Fence.Raised = false
	c.Switch.From = router.Source
	c.Servers[1].Fence = nil
	if diff := cmp.Diff(fullRecord(), r); diff != "" {
		t.Errorf("a change of the clone changed the original:\n%s", diff)
	}
}

func TestSeal(t *testing.T) {
	const secret = "our own password"
	keys := [2]string{"source-pw", "target-pw"}
	sealed, err := seal(secret, keys)
	if err != nil {
		t.Fatal(err)
	}
	again, err := seal(secret, keys)
	if err != nil {
		t.Fatal(err)
	}
	if sealed == again {
		t.Error("sealed twice it looks the same")
	}
	for _, hidden := range []string{secret, keys[0], keys[1]} {
		if strings.Contains(sealed, hidden) {
			t.Errorf("%q is in the sealed text", hidden)
		}
	}
	for _, s := range []string{sealed, again} {
		if got, err := unseal(s, keys); err != nil || got != secret {
			t.Errorf("unseal: %q, %v", got, err)
		}
	}
	for _, wrong := range [][2]string{{}, {"source-pw", ""}, {"", "target-pw"}, {"target-pw", "source-pw"}, {"source-pwtarget-pw", ""}, {"source-pw", "target-pw "}} {
		got, err := unseal(sealed, wrong)
		if err == nil || got != "" || !strings.Contains(err.Error(), "other credentials") || !strings.Contains(err.Error(), "same source and target passwords") {
			t.Errorf("with %q: %q, %v", wrong, got, err)
		}
		if err != nil && strings.Contains(err.Error(), "pw") {
			t.Errorf("the error gives a password away: %v", err)
		}
	}
	flipped := sealed[:len(sealed)-1] + string("0123456789abcdef"[15-strings.IndexByte("0123456789abcdef", sealed[len(sealed)-1])])
	for _, damaged := range []string{"", "zz", "00", sealed[:20], sealed[:len(sealed)-2], flipped} {
		if got, err := unseal(damaged, keys); err == nil || got != "" {
			t.Errorf("damaged %q: %q, %v", damaged, got, err)
		}
	}
}

// Servers without a password: the seal still opens with the same credentials.
func TestSealWithoutPasswords(t *testing.T) {
	sealed, err := seal("x", [2]string{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := unseal(sealed, [2]string{}); err != nil || got != "x" {
		t.Errorf("unseal: %q, %v", got, err)
	}
}

func TestRandomHex(t *testing.T) {
	a, b := randomHex(32), randomHex(32)
	if a == b || len(a) != 64 {
		t.Errorf("%q and %q", a, b)
	}
}
