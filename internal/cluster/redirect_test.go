package cluster

import "testing"

func TestRedirects(t *testing.T) {
	const from = "10.0.0.9:7000"
	for text, want := range map[string]Redirect{
		"MOVED 3999 127.0.0.1:6381":       {3999, "127.0.0.1:6381", false},
		"-MOVED 3999 127.0.0.1:6381\r\n":  {3999, "127.0.0.1:6381", false},
		"ASK 0 redis-3.example.org:6381":  {0, "redis-3.example.org:6381", true},
		"MOVED 16383 :6381":               {16383, "10.0.0.9:6381", false},
		"MOVED 1 ?:6381":                  {1, "10.0.0.9:6381", false},
		"MOVED 1 ::1:6381":                {1, "[::1]:6381", false},
		"MOVED 1 [fe80::2]:6381":          {1, "[fe80::2]:6381", false},
		"MOVED 1 127.0.0.1:6381 and more": {1, "127.0.0.1:6381", false},
	} {
		if got, ok := ParseRedirect(text, from); !ok || got != want {
			t.Errorf("%q: %+v, %v, want %+v", text, got, ok, want)
		}
	}
	for _, text := range []string{
		"", "MOVED", "MOVED 1", "MOVED 1 host", "MOVED 16384 h:1", "MOVED -1 h:1", "MOVED 1 h:0", "MOVED 1 h:65536", "MOVED x h:1",
		"ERR MOVED 1 h:1", "MOVEDX 1 h:1", "TRYAGAIN Multiple keys", "ASKED 1 h:1",
	} {
		if got, ok := ParseRedirect(text, from); ok {
			t.Errorf("%q: %+v", text, got)
		}
	}
	for text, want := range map[string]bool{
		"TRYAGAIN Multiple keys request during rehashing of slot": true,
		"-CLUSTERDOWN The cluster is down":                        true,
		"LOADING Redis is loading the dataset in memory":          true,
		"MASTERDOWN Link with MASTER is down":                     true,
		"READONLY You can't write against a read only replica.":   false,
		"ERR TRYAGAIN": false,
		"":             false,
	} {
		if got := Later(text); got != want {
			t.Errorf("%q: later %v", text, got)
		}
	}
}

func TestAtRest(t *testing.T) {
	text := `07c3 127.0.0.1:30004@31004,hostname4 slave e7d1 0 1426238317239 4 connected
67ed 127.0.0.1:30002@31002,hostname2 master - 0 1426238316232 2 connected 5461-10922
e7d1 127.0.0.1:30001@31001,hostname1 myself,master - 0 0 1 connected 0-3 77 100-16383 [2->-67ed] [93-<-67ed] [77->-67ed]
`
	at := AtRest(text)
	for s := range uint16(16384) {
		if want := s <= 3 && s != 2 || s >= 100; at.Has(s) != want {
			t.Errorf("slot %d: %v", s, at.Has(s))
		}
	}
	for _, text := range []string{"", "07c3 h:1@2 myself,slave e7d1 0 0 4 connected\n", "07c3 h:1@2 myself,master - 0 0 4 connected x 16384 5-\n"} {
		if *AtRest(text) != (Slots{}) {
			t.Errorf("%q has slots", text)
		}
	}
}
