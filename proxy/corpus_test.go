package proxy

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/resp"
)

// The corpus is described in testdata/corpus/README.md.

type scene struct {
	alone bool   // is not run in transactions too
	apart bool   // nor pipelined
	since string // on servers of this version and newer only
	steps []step
}

// tooNew reports whether the server is too old for the number of replies.
func (s scene) tooNew() bool {
	var major, minor int
	if _, err := fmt.Sscanf(s.since, "%d.%d", &major, &minor); err != nil {
		return false
	}
	return older(programVersion(), major, minor)
}

type step struct {
	at      string // file and line
	other   bool   // on the second connection
	replies int
	rule    string
	text    string // "" only reads
}

func (s step) args() [][]byte { args, _ := resp.SplitArgs([]byte(s.text)); return args }

var (
	special = regexp.MustCompile(`^\(((?:b|[0-9]|num|id|sort|shape|type|lines| )*)\) ?`)
	numeric = regexp.MustCompile(`^[0-9]$`)
)

// readCorpus returns the scenes of each file.
func readCorpus(t testing.TB) map[string][]scene {
	t.Helper()
	out := make(map[string][]scene)
	files, err := filepath.Glob("testdata/corpus/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no corpus: %v", err)
	}
	rules := readTable(t, "rules.txt")
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txt")
		if name == "rules" || name == "left-out" {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		scenes := []scene{{}}
		for i, l := range strings.Split(string(text), "\n") {
			switch {
			case l == "" || l[0] == '#':
				continue
			case strings.HasPrefix(l, "---"):
				_, since, _ := strings.Cut(l, "since ")
				scenes = append(scenes, scene{alone: strings.Contains(l, "alone"), apart: strings.Contains(l, "apart"), since: since})
				continue
			}
			st := step{at: fmt.Sprintf("%s.txt:%d: %s", name, i+1, l), replies: 1, text: l}
			if m := special.FindStringSubmatch(l); m != nil {
				st.text = strings.TrimPrefix(l, m[0])
				for _, w := range strings.Fields(m[1]) {
					switch {
					case w == "b":
						st.other = true
					case numeric.MatchString(w):
						st.replies = int(w[0] - '0')
					default:
						st.rule = w
					}
				}
			}
			if st.text != "" && len(st.args()) == 0 {
				t.Fatalf("%s: not a command", st.at)
			}
			if st.rule == "" && st.text != "" {
				st.rule = ruleOf(rules, st.args())
			}
			sc := &scenes[len(scenes)-1]
			sc.steps = append(sc.steps, st)
		}
		out[name] = slices.DeleteFunc(scenes, func(s scene) bool { return len(s.steps) == 0 })
	}
	return out
}

func ruleOf(rules map[string]string, args [][]byte) string {
	name := strings.ToLower(string(args[0]))
	if len(args) > 1 {
		if rule := rules[name+"|"+strings.ToLower(string(args[1]))]; rule != "" {
			return rule
		}
	}
	return rules[name]
}

// readTable reads "name: text # comment".
func readTable(t testing.TB, file string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata/corpus", file))
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string)
	for l := range strings.SplitSeq(string(text), "\n") {
		l, _, _ = strings.Cut(l, "#")
		if name, what, ok := strings.Cut(strings.TrimSpace(l), ":"); ok {
			out[name] = strings.TrimSpace(what)
		}
	}
	return out
}

// render says a reply as far as a rule lets it be compared.
func render(rule string, el string) string {
	if rule == "" || strings.HasPrefix(el, "EOF") {
		return strconv.Quote(el)
	}
	if el[0] == '-' || el[0] == '!' {
		return strconv.Quote(el) // errors are the same under every rule
	}
	typ, n, _, ok := resp.Header([]byte(el))
	if !ok || n < 0 {
		return leaf(rule, el)
	}
	kids := resp.Elements([]byte(el))
	out := make([]string, len(kids))
	for i, k := range kids {
		if rule == "id" && i > 0 && bytes.HasSuffix(kids[i-1], []byte("\r\nid\r\n")) {
			out[i] = leaf("num", string(k))
			continue
		}
		out[i] = render(rule, string(k))
	}
	switch {
	case rule == "type":
		return string(typ)
	case rule == "sort" && typ == '%':
		var pairs []string
		for i := 0; i+1 < len(out); i += 2 {
			pairs = append(pairs, out[i]+" => "+out[i+1])
		}
		out = pairs
		fallthrough
	case rule == "sort":
		slices.Sort(out)
	}
	return fmt.Sprintf("%c%d%s", typ, n, out)
}

var (
	values  = regexp.MustCompile(`(?m)([a-zA-Z0-9_.-]+)[=:][^ \r\n]*`)
	isCount = regexp.MustCompile(`^[:,][0-9.-]+\r\n$`)
)

func leaf(rule, el string) string {
	switch rule {
	case "type", "shape":
		return el[:1]
	case "num":
		if isCount.MatchString(el) {
			return el[:1] + "N"
		}
	case "lines":
		text, _, _ := resp.Text([]byte(el))
		return el[:1] + fmt.Sprintf("%q", slices.Compact(strings.Split(values.ReplaceAllString(strings.TrimPrefix(string(text), "txt:"), "$1"), "\n")))
	}
	return strconv.Quote(el)
}

// The ways in which a scene is run.
const (
	oneByOne    = "one by one"
	pipelined   = "pipelined"
	inline      = "inline"
	transaction = "in transactions"
)

// place tells where in the corpus a failure was.
type place struct {
	testing.TB
	at string
}

func (p *place) Fatalf(format string, args ...any) {
	p.Helper()
	p.TB.Fatalf("%s: "+format, append([]any{p.at}, args...)...)
}

// play runs a scene and returns a line for each reply. settled is called when the
// connections are ready.
func play(t testing.TB, addr string, sc scene, proto int, way string, settled func()) []string {
	where := &place{TB: t}
	a, b := dialRaw(t, addr), dialRaw(t, addr)
	defer a.close()
	defer b.close()
	a.t, b.t = where, where
	if proto == 3 {
		a.do("HELLO 3")
		settled()
	}
	var out []string
	var wire []byte
	var waiting []step
	of := func(st step) *raw {
		if st.other {
			return b
		}
		return a
	}
	flush := func() {
		if len(waiting) == 0 {
			return
		}
		where.at = waiting[0].at
		c := of(waiting[0])
		if len(wire) > 0 {
			c.write(wire)
		}
		for _, st := range waiting {
			where.at = st.at
			for range st.replies {
				out = append(out, st.at+" -> "+render(st.rule, c.next()))
			}
		}
		waiting, wire = waiting[:0], wire[:0]
	}
	for _, st := range sc.steps {
		if len(waiting) > 0 && (way != pipelined || waiting[0].other != st.other) {
			flush()
		}
		waiting = append(waiting, st)
		switch {
		case st.text == "":
		case way == inline:
			wire = append(append(wire, st.text...), "\r\n"...)
		case way == transaction:
			wire = append(append(append(wire, words("MULTI")...), wireOf(st.args()...)...), words("EXEC")...)
			waiting[len(waiting)-1].replies = 3
		default:
			wire = append(wire, wireOf(st.args()...)...)
		}
	}
	flush()
	where.at += ", and after it"
	if last := sc.steps[len(sc.steps)-1].text; last == "QUIT" {
		return append(out, "the end -> "+a.next())
	}
	return append(out, "the end -> "+a.do("PING"))
}

// stage is a server on which scenes are run, directly or through a proxy.
type stage struct {
	addr    string
	server  *redistest.Server
	settled func()
}

// clear gives the next scene an empty server.
func (s stage) clear(t testing.TB) {
	t.Helper()
	c := dialRaw(t, s.server.Addr())
	defer c.close()
	for _, l := range []string{"FLUSHALL", "FUNCTION FLUSH", "SCRIPT FLUSH", "ACL LOG RESET", "CONFIG SET notify-keyspace-events \"\"", "ACL DELUSER u"} {
		c.do(l)
	}
}

// withDebug lets DEBUG be used, as it always may before 7.0.
func withDebug(c *redistest.Config) {
	if !older(programVersion(), 7, 0) {
		redistest.WithConfig("enable-debug-command", "yes")(c)
	}
}

func corpusServer(c *redistest.Config) {
	withDebug(c)
	redistest.WithConfig("slowlog-log-slower-than", "-1")(c)
}

// programVersion is that of the server program that the tests use: 8.1 of Valkey
// counts as newer than 7 of Redis, which is right.
var programVersion = sync.OnceValue(func() string {
	program := cmp.Or(os.Getenv("REDIS_SERVER"), "redis-server")
	out, err := exec.Command(program, "--version").Output()
	_, v, found := strings.Cut(string(out), "v=")
	if err != nil || !found {
		panic(fmt.Sprintf("asking %s for its version: %q, %v", program, out, err))
	}
	return v
})

func directStage(t testing.TB) stage {
	s := redistest.Start(t, corpusServer)
	return stage{s.Addr(), s, func() {}}
}

// proxyStage waits, where connections are shared, until a client is back on them
// after it has changed the protocol.
func proxyStage(t testing.TB, target *redistest.Server, shared bool) stage {
	w := newWorldOn(t, redistest.Start(t, corpusServer), target, func(c *Config) { c.Shared = shared })
	settled := func() {
		until(t, "the client shares again", func() bool { return len(w.proxy.snapshotSessions()) == 0 })
	}
	return stage{w.proxy.Addr().String(), w.source, settled}
}

// eachStage runs f with a direct server and one behind a proxy, shared and pinned.
func eachStage(t *testing.T, f func(t *testing.T, direct, proxied stage, proto int)) {
	inBothModes(t)
	target := redistest.Start(t)
	for _, shared := range []bool{true, false} {
		for _, proto := range []int{2, 3} {
			t.Run(fmt.Sprintf("%s/RESP%d", map[bool]string{true: "shared", false: "pinned"}[shared], proto), func(t *testing.T) {
				f(t, directStage(t), proxyStage(t, target, shared), proto)
			})
		}
	}
}

func TestCorpus(t *testing.T) {
	corpus := readCorpus(t)
	ways := []string{oneByOne, pipelined, inline, transaction}
	if testing.Short() {
		ways = ways[:2]
	}
	eachStage(t, func(t *testing.T, direct, proxied stage, proto int) {
		for _, way := range ways {
			for _, name := range slices.Sorted(maps.Keys(corpus)) {
				t.Run(way+"/"+name, func(t *testing.T) {
					for _, sc := range corpus[name] {
						if way == transaction && sc.alone || way == pipelined && sc.apart || sc.tooNew() {
							continue
						}
						direct.clear(t)
						proxied.clear(t)
						want := play(t, direct.addr, sc, proto, way, direct.settled)
						got := play(t, proxied.addr, sc, proto, way, proxied.settled)
						sameLines(t, got, want)
					}
				})
			}
		}
	})
}

func sameLines(t *testing.T, got, want []string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		g, w := "nothing", "nothing"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Errorf("through the proxy:\n\t%.2000s\ndirectly:\n\t%.2000s", g, w)
		}
	}
}
