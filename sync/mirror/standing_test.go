package mirror

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
)

// TestWhoIsRefused: who does not let us in has said nothing, and says why.
func TestWhoIsRefused(t *testing.T) {
	s := redistest.Start(t)
	_, _, err := whoIs(t.Context(), s.ClientAs("nobody", "x", 0))
	if err == nil || !strings.HasPrefix(err.Error(), "WRONGPASS") {
		t.Errorf("the error is %v", err)
	}
	who, _, err := whoIs(t.Context(), s.Client(0))
	if err != nil || who.run == "" || who.replid == "" || who.replica {
		t.Errorf("it is %+v, %v", who, err)
	}
}

// TestLine: which changes of a server's standing mean that it may lack what it had.
func TestLine(t *testing.T) {
	errNobody := errors.New("nobody can tell")
	master := standing{run: "r", replid: "a"}
	for name, tt := range map[string]struct {
		first, now standing
		before     time.Duration // since it was asked last
		ttl        time.Duration
		err        error
		want       string
	}{
		"the same":                                       {first: master, now: master, err: errNobody},
		"another process":                                {first: master, now: standing{run: "s", replid: "a"}, err: errNobody, want: restarted},
		"a replica":                                      {first: master, now: standing{run: "r", replid: "a", replica: true}, want: demoted},
		"a replica of another":                           {first: master, now: standing{run: "r", replid: "b", replica: true}, want: demoted},
		"a replica that is a master":                     {first: standing{run: "r", replid: "a", replica: true}, now: master, want: promoted},
		"a replica still":                                {first: standing{run: "r", replid: "a", replica: true}, now: standing{run: "r", replid: "a", replica: true}, err: errNobody},
		"another's replica":                              {first: standing{run: "r", replid: "a", replica: true}, now: standing{run: "r", replid: "b", replica: true}, ttl: time.Hour, want: promoted},
		"promoted":                                       {first: master, now: standing{run: "r", replid: "b", shifted: true}, ttl: time.Hour, want: promoted},
		"promoted for good":                              {first: master, now: standing{run: "r", replid: "b", shifted: true}, want: promoted},
		"promoted again":                                 {first: standing{run: "r", replid: "a", shifted: true}, now: standing{run: "r", replid: "b", shifted: true}, ttl: time.Hour, want: promoted},
		"the second id is gone":                          {first: standing{run: "r", replid: "a", shifted: true}, now: master, err: errNobody},
		"a first replica":                                {first: master, now: standing{run: "r", replid: "b"}, before: time.Minute, ttl: time.Hour},
		"a first replica where backlogs stay":            {first: master, now: standing{run: "r", replid: "b"}, before: time.Hour},
		"a first replica, or promoted for long":          {first: master, now: standing{run: "r", replid: "b"}, before: time.Hour, ttl: time.Minute, want: promoted},
		"a first replica, or not, and nobody can tell":   {first: master, now: standing{run: "r", replid: "b"}, err: errNobody},
		"it says no id any more":                         {first: master, now: standing{run: "r"}, err: errNobody},
		"it says an id that it did not say":              {first: standing{run: "r"}, now: master, err: errNobody},
		"it says nothing at all, as some services do":    {err: errNobody},
		"it says that it is a replica, and nothing else": {now: standing{replica: true}, want: demoted},
	} {
		t.Run(name, func(t *testing.T) {
			at := time.Now()
			l := newLine(tt.first, at.Add(-tt.before))
			ttl := func() (time.Duration, error) { return tt.ttl, tt.err }
			unknown := tt.now.replid == "b" && !tt.now.shifted && !tt.now.replica
			got, err := l.judge(tt.now, at, ttl)
			if got != tt.want || unknown && tt.err != nil != (err != nil) || !unknown && err != nil {
				t.Fatalf("%q, %v, want %q", got, err, tt.want)
			}
			if got != "" || err != nil {
				return
			}
			if again, err := l.judge(tt.now, at, func() (time.Duration, error) { return 0, errNobody }); again != "" || err != nil {
				t.Errorf("once more: %q, %v", again, err)
			}
			if !l.until.Equal(at) {
				t.Errorf("it was the same at %v, and not at %v", at, l.until)
			}
		})
	}
}

// TestStandingIn reads what servers say.
func TestStandingIn(t *testing.T) {
	const server = "# Server\r\nredis_version:7.0.15\r\nrun_id:0123\r\n"
	for name, tt := range map[string]struct {
		replication string
		want        standing
	}{
		"master":   {"# Replication\r\nrole:master\r\nconnected_slaves:0\r\nmaster_replid:aa\r\nmaster_replid2:00\r\nmaster_repl_offset:0\r\nsecond_repl_offset:-1\r\n", standing{run: "0123", replid: "aa"}},
		"promoted": {"role:master\r\nmaster_replid:bb\r\nmaster_replid2:aa\r\nsecond_repl_offset:15\r\n", standing{run: "0123", replid: "bb", shifted: true}},
		"replica":  {"role:slave\r\nmaster_host:h\r\nmaster_replid:aa\r\nsecond_repl_offset:-1\r\n", standing{run: "0123", replid: "aa", replica: true}},
		"silent":   {"", standing{run: "0123"}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := standingIn(server, tt.replication); got != tt.want {
				t.Errorf("%+v, want %+v", got, tt.want)
			}
		})
	}
}
