package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/etcdtest"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/migration/fleet"
	"github.com/crossfade/crossfade/router"
)

// overEtcd is a fleet whose sidecars meet in an etcd, behind a link.
type overEtcd struct {
	*armada
	etcd *etcdtest.Server
	link *redistest.Link
}

func newOverEtcd(t *testing.T, n int, failpoints string) *overEtcd {
	t.Helper()
	o := &overEtcd{etcd: etcdtest.Start(t, nil)}
	o.link = redistest.NewLink(t, o.etcd.Addr())
	o.armada = newArmadaIn(t, n, failpoints, inEtcd(o.link.Addr()))
	if n := o.dst.Client(0).Exists(t.Context(), fleet.Keys()...).Val(); n > 0 {
		t.Error("the fleet meets on the target")
	}
	return o
}

// settle is the armada's, and nothing of the fleet is left in etcd either.
func (o *overEtcd) settle(side router.Side, lossy bool) {
	o.t.Helper()
	o.armada.settle(side, lossy)
	redistest.Eventually(o.t, time.Minute, func() error {
		if keys := o.etcd.Keys(); len(keys) > 0 {
			return fmt.Errorf("left behind: %q", keys)
		}
		return nil
	}, "nothing of ours is left in etcd")
	for _, c := range append([]*sidecar{o.c}, o.members...) {
		c.speaksJSON()
	}
}

// speaksJSON fails when anybody but the program itself has written to standard error.
func (c *sidecar) speaksJSON() {
	c.tb.Helper()
	file, err := os.Open(c.logs)
	if err != nil {
		c.tb.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var line struct{ Time, Msg string }
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil || line.Time == "" || line.Msg == "" {
			c.tb.Errorf("a line of the log is somebody else's: %s", lines.Text())
		}
	}
}

// TestFleetOverEtcd has a fleet that meets in etcd moved there and back under load.
func TestFleetOverEtcd(t *testing.T) {
	t.Parallel()
	o := newOverEtcd(t, 3, "")
	var stalls, held []time.Duration
	all := 0
	side := router.Source
	for i := range 6 {
		o.c.awaitReady()
		o.looks.longest()
		o.mustSwitch(side)
		side = side.Other()
		for _, m := range o.members {
			m.awaitOpen(side)
		}
		stalls = append(stalls, o.looks.longest())
		r := must[migration.Status](t)(o.c.status()).LastCutover
		if r == nil || r.Fleet == nil || r.Fleet.Members < len(o.members) {
			t.Fatalf("switch %d: the report says of the fleet: %+v", i, r)
		}
		if r.Fleet.Held == len(o.members) {
			all++
		} else {
			t.Logf("switch %d: %d of %d held their clients: %q", i, r.Fleet.Held, len(o.members), r.Fleet.Missing)
		}
		held = append(held, time.Duration(r.Held*float64(time.Millisecond)))
		o.goOn(50)
	}
	if all == 0 {
		t.Error("in no switch have all members held their clients: nobody hears a word")
	}
	t.Logf("the longest operation of any client took %v in the middle, %v at most; the hold itself %v, %v", median(stalls), maxOf(stalls), median(held), maxOf(held))
	o.settle(side, false)
}

// TestFleetEtcdGoes: etcd goes away in the middle of a switch, at once or without a word. The
// switch goes on: the fence keeps the clients of members away that hear nothing more, and they
// find out from the record. There is no other switch before etcd is back, and then all is as before.
func TestFleetEtcdGoes(t *testing.T) {
	for name, at := range map[string]struct {
		point  string
		silent bool
	}{
		"before the hold":           {"hold:before", false},
		"silence before the hold":   {"hold:before", true},
		"while all hold":            {"drain-1:before", false},
		"before the commit":         {"commit:before", false},
		"silence before the commit": {"commit:before", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "here")
			o := newOverEtcd(t, 3, "cutover."+at.point+"#1=wait:"+file)
			o.c.awaitReady()
			goes := func() {
				o.link.Refuse(true)
				if at.silent {
					o.link.Stall(true)
				} else {
					o.link.Cut()
				}
			}
			err := o.faultAt(router.Source, file, goes)
			if !at.silent {
				o.etcd.Stop()
			}
			side := router.Target
			if outOfTime(err) { // on a machine that is too busy: taken back, and nothing has happened
				t.Log(err)
				side = router.Source
			} else if err != nil {
				t.Fatal(err)
			}
			for _, m := range o.members {
				m.awaitOpen(side)
			}
			o.goOn(100)
			o.c.await("it says why there is no switch", func(st migration.Status) bool {
				return !st.Ready && strings.Contains(strings.Join(st.Reasons, "\n"), "where the sidecars meet does not answer")
			})
			o.members[0].await("a member says that nobody hears it", func(st migration.Status) bool {
				return st.State == string(fleet.Open) && strings.Contains(strings.Join(st.Reasons, "\n"), "does not hear of this sidecar")
			})
			if err := o.switchOnce(side); err == nil || !strings.Contains(err.Error(), "looking for other sidecars") {
				t.Errorf("a switch of which nobody can be told: %v", err)
			}
			if !at.silent {
				o.etcd.Start()
			}
			o.link.Stall(false)
			o.link.Refuse(false)
			o.c.awaitReady()
			o.allAlive()
			o.mustSwitch(side)
			o.goOn(50)
			o.settle(side.Other(), false)
		})
	}
}
