package acl

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// kinds are users with every kind of rule.
var kinds = []string{
	"everything on >pw1 >pw2 ~* &* +@all",
	"nopass on nopass allkeys allchannels allcommands",
	"off off >pw ~* +@all",
	"categories on >pw ~app:* ~other:* resetchannels &news:* +@all -@dangerous -@admin +info",
	"reader on >pw %R~app:* %W~out:* %RW~both:* resetchannels +@read +@connection -keys",
	"subcommands on >pw ~* -@all +config|get +client|list +client|setname +acl|whoami +memory",
	"firstarg on >pw ~* -@all +select|0 +get",
	"mixed on >pw ~* +@all -config +config|get -debug",
	"nothing on >pw resetkeys resetchannels -@all",
	"trusted on skip-sanitize-payload >pw ~* +@all",
	"selectors on >pw ~root:* resetchannels &root +get +set (~a:* resetchannels &ch:* +@all -@write) (%R~b:* %W~c:* -@all +get +set)",
	"onlyselector on >pw -@all (~* &* +@all)",
	"wide on >pw -@all (+@read ~*) (+publish &*) (+ping)",
	"ünïcode on >pw ~ключ:* -@all +get",
}

// quoted are users that redis.conf has no words for.
func quoted(t *testing.T, c *redis.Client) {
	t.Helper()
	for _, words := range [][]any{
		{"odd:~name", "on", ">pw", `~a\"b'c`, "~)(", "~x~y", "-@all", "+get"},
		{"quotes", "on", ">p w", "-@all", `(~it's:* ~say"x" ~back\slash +get)`, "+get"},
		{"closing", "on", "#" + hash, "(~a) ~b) +get)", "(~c +set)"},
	} {
		for i, w := range words {
			if text := w.(string); strings.HasPrefix(text, "(") {
				words[i] = Selector(strings.Fields(strings.TrimSuffix(text[1:], ")")))
			}
		}
		if err := c.Do(t.Context(), append([]any{"ACL", "SETUSER"}, words...)...).Err(); err != nil {
			t.Fatal(words, err)
		}
	}
}

// TestCopy: users of every kind are the same on the other server, whatever the default for
// channels is there, and are left alone the next time.
func TestCopy(t *testing.T) {
	for _, channels := range [][2]string{{"resetchannels", "allchannels"}, {"allchannels", "resetchannels"}} {
		source := redistest.Start(t, redistest.WithACL(kinds...), redistest.WithConfig("acl-pubsub-default", channels[0]))
		target := redistest.Start(t, redistest.WithConfig("acl-pubsub-default", channels[1]), redistest.WithACL("categories on >other ~* +@all", "mine on >pw ~* +@all"))
		from, to := source.Client(0), target.Client(0)
		quoted(t, from)
		before := list(t, to)
		p := planOf(t, from, to, Options{})
		if diff := cmp.Diff(before, list(t, to)); diff != "" {
			t.Errorf("the plan has changed something:\n%s", diff)
		}
		if p.Count(Create) != len(kinds)+2 || p.Count(Change) != 1 || p.Count(Refuse) != 0 || p.Count(Leave) != 2 {
			t.Errorf("the plan: %s", actions(p))
		}
		apply(t, to, p)
		want := append(list(t, from), "user mine on")
		slices.Sort(want)
		got := list(t, to)
		for i, l := range got {
			if strings.HasPrefix(l, "user mine on ") {
				got[i] = "user mine on"
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("the users differ (-source +target):\n%s", diff)
		}
		again := planOf(t, from, to, Options{})
		if again.Count(Keep) != len(kinds)+3 || again.Count(Create)+again.Count(Change) != 0 {
			t.Errorf("again: %s\n%s", actions(again), again.Text(80))
		}
		for _, password := range []string{"pw1", "pw2"} {
			if err := target.ClientAs("everything", password, 0).Ping(t.Context()).Err(); err != nil {
				t.Errorf("logging in with %s: %v", password, err)
			}
		}
		if err := target.ClientAs("categories", "other", 0).Ping(t.Context()).Err(); err == nil {
			t.Error("the password that only the target had is still good")
		}
	}
}

// TestText: 80 columns, and no hash anywhere.
func TestText(t *testing.T) {
	source := redistest.Start(t, redistest.WithACL(append(kinds, strings.Repeat("longname", 20)+" on >pw ~"+strings.Repeat("pattern", 40)+" +@all", "changed on >new >both ~a ~b +get")...))
	target := redistest.Start(t, redistest.WithACL("changed on >old >both ~a +get +set", "extra on nopass"))
	p := planOf(t, source.Client(0), target.Client(0), Options{Prune: true})
	p.Notes = append(p.Notes, strings.Repeat("x", 200))
	text := p.Text(80)
	for line := range strings.Lines(text) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	for _, want := range []string{
		"remove  extra       only the target has it\n", "passwords  now   2, 1 of them not on the source", "then  2, 1 of them new", "commands   now   -@all +", "keys       now   ~a\n", "then  ~a ~b\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if hashes.MatchString(text) {
		t.Errorf("a hash in\n%s", text)
	}
}

// TestWhomItLeaves: default, those as whom we are logged in, and users of ours.
func TestWhomItLeaves(t *testing.T) {
	users := []string{"admin on >pw ~* &* +@all", "crossfade on >pw ~* &* +@all", "app on >pw ~* +get"}
	source := redistest.Start(t, redistest.WithACL(users...))
	target := redistest.Start(t, redistest.WithACL("operator on >pw ~* &* +@all", "old on >pw ~* +get"))
	from, to := source.ClientAs("admin", "pw", 0), target.ClientAs("operator", "pw", 0)
	never := []string{"crossfade"}
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{}, "leave admin, create app, leave crossfade, leave default, leave old, leave operator"},
		{Options{Prune: true}, "leave admin, create app, leave crossfade, leave default, remove old, leave operator"},
		{Options{Prune: true, Include: []string{"admin", "default"}}, "create admin, create app, leave crossfade, keep default, remove old, leave operator"},
		{Options{Users: []string{"app", "old"}, Prune: true}, "create app, remove old"},
		{Options{Users: []string{"default", "operator"}, Prune: true}, "leave default, leave operator"},
		{Options{Users: []string{"crossfade"}, Include: []string{"crossfade"}}, "leave crossfade"},
	} {
		c.o.Never = never
		if got := actions(planOf(t, from, to, c.o)); got != c.want {
			t.Errorf("%+v: %s, want %s", c.o, got, c.want)
		}
	}
	if _, err := Make(Side{}, Side{}, Catalog{}, Server{}, Options{Users: []string{"nobody"}}); err == nil || !strings.Contains(err.Error(), `"nobody"`) {
		t.Errorf("somebody who is not there: %v", err)
	}
	apply(t, to, planOf(t, from, to, Options{Prune: true, Include: []string{"admin", "default"}, Never: never}))
	if got := strings.Join(list(t, to), "\n"); strings.Contains(got, "user old") || strings.Contains(got, "user crossfade") || !strings.Contains(got, "user operator") || !strings.Contains(got, "user admin") {
		t.Errorf("the target's users:\n%s", got)
	}
}

// TestOurselvesLast: who takes its own right to write users away is the last to be written.
func TestOurselvesLast(t *testing.T) {
	source := redistest.Start(t, redistest.WithACL("admin on >pw ~* +@all -acl|setuser -acl|deluser", "zoe on >pw ~* +get"))
	target := redistest.Start(t, redistest.WithACL("admin on >pw ~* &* +@all", "old on"))
	to := target.ClientAs("admin", "pw", 0)
	p := planOf(t, source.Client(0), to, Options{Include: []string{"admin"}, Prune: true})
	apply(t, to, p)
	for _, u := range list(t, target.Client(0)) {
		if strings.HasPrefix(u, "user old") {
			t.Error("old is still there")
		}
	}
	if got := actions(planOf(t, source.Client(0), target.Client(0), Options{Include: []string{"admin"}})); got != "keep admin, leave default, keep zoe" {
		t.Errorf("afterwards: %s", got)
	}
}

// described is a user as Redis 7.0 and newer describe one.
func described(commands, keys string, more ...any) []any {
	return append([]any{"flags", anyList("on", "sanitize-payload"), "passwords", anyList(hash), "commands", commands, "keys", keys, "channels", "", "selectors", []any{}}, more...)
}

// TestLacking: what a newer server has said of its users, and an older one cannot have.
func TestLacking(t *testing.T) {
	from := old(t, "redis-8.0", map[string][]any{
		"all":    described("+@all -hgetex", "~*"),
		"fields": described("-@all +get +hgetex", "~*"),
		"some":   described("-@all +get", "~*", "databases", "db=1,2"),
		"hours":  described("-@all +get", "~*", "hours", "9-17"),
	})
	target := redistest.Start(t)
	to := target.Client(0)
	p := planOf(t, from, to, Options{})
	if got := actions(p); got != "create all, leave default, refuse fields, refuse hours, refuse some" {
		t.Fatalf("the plan: %s\n%s", got, p.Text(80))
	}
	if lost := stepOf(t, p, "fields").Lost; len(lost) != 1 || lost[0].Rule != "+hgetex" || !strings.Contains(lost[0].What, "HGETEX") {
		t.Errorf("what fields loses: %v", lost)
	}
	apply(t, to, p)
	if got := strings.Join(list(t, to), "\n"); strings.Count(got, "user ") != 2 {
		t.Errorf("a user that is refused was copied:\n%s", got)
	}
	p = planOf(t, from, to, Options{Weaker: true})
	if got := actions(p); got != "keep all, leave default, create fields, refuse hours, refuse some" {
		t.Fatalf("with --force-weaker: %s", got)
	}
	apply(t, to, p)
	if err := target.Client(0).Do(t.Context(), "ACL", "DRYRUN", "fields", "GET", "x").Err(); err != nil {
		t.Errorf("GET: %v", err)
	}
	if got := actions(planOf(t, from, to, Options{Weaker: true})); got != "keep all, leave default, keep fields, refuse hours, refuse some" {
		t.Errorf("again: %s", got)
	}
}

// TestFromOld: a server without channels has users that may use all of them.
func TestFromOld(t *testing.T) {
	from := old(t, "redis-6.0", map[string][]any{
		"app": {"flags", anyList("on"), "passwords", anyList(hash), "commands", "+@all -@dangerous", "keys", anyList("a:*")},
	})
	target := redistest.Start(t)
	to := target.Client(0)
	apply(t, to, planOf(t, from, to, Options{}))
	for command, may := range map[string]bool{"GET a:x": true, "GET b:x": false, "PUBLISH any x": true, "CLIENT ID": false, "KEYS *": false, "CONFIG HELP": false, "LOLWUT": true} {
		args := []any{"ACL", "DRYRUN", "app"}
		for w := range strings.FieldsSeq(command) {
			args = append(args, w)
		}
		text, err := to.Do(t.Context(), args...).Text()
		if err != nil || may != (text == "OK") {
			t.Errorf("%s: %s, %v", command, text, err)
		}
	}
	if got := planOf(t, from, to, Options{}); got.Count(Keep) != 1 {
		t.Errorf("again: %s", got.Text(80))
	}
}

// TestPrefixes: patterns become those of the names on the target, and open nothing else.
func TestPrefixes(t *testing.T) {
	source := redistest.Start(t, redistest.WithACL("app on >pw ~foo* %R~bar resetchannels &news &__keyspace@3__:foo* &__keyevent@3__:* +@all", "all on >pw ~* &* +@all", "sel on >pw -@all (~s:* +get)"))
	target := redistest.Start(t)
	from, to := source.Client(0), target.Client(0)
	places := map[int]router.Place{0: {DB: 0, Prefix: "c0:"}, 3: {DB: 0, Prefix: "w[3]:"}}
	p := planOf(t, from, to, Options{Places: places})
	apply(t, to, p)
	if len(p.Notes) == 0 || !strings.Contains(p.Notes[0], "all databases") {
		t.Errorf("the notes: %q", p.Notes)
	}
	if notes := stepOf(t, p, "app").Notes; len(notes) != 1 || !strings.Contains(notes[0], "__keyevent@0__") {
		t.Errorf("the notes: %q", notes)
	}
	for key, may := range map[string]string{"c0:foo1": "rw", "w[3]:foo1": "rw", "c0:bar": "r", "w[3]:bar": "r", "foo1": "", "bar": "", "w3:foo1": "", "c0:baz": "", "other:foo1": ""} {
		for command, right := range map[string]string{"GET": "r", "SET": "w"} {
			args := []any{"ACL", "DRYRUN", "app", command, key}
			if command == "SET" {
				args = append(args, 1)
			}
			text, err := to.Do(t.Context(), args...).Text()
			if err != nil {
				t.Fatal(err)
			}
			if want := strings.Contains(may, right); want != (text == "OK") {
				t.Errorf("%s %s: %s", command, key, text)
			}
		}
	}
	lines, err := to.Do(t.Context(), "ACL", "LIST").StringSlice()
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Join(lines, "\n")
	for _, want := range []string{`&news &__keyspace@0__:w\[3\]:foo* &__keyevent@0__:*`, `~c0:* ~w\[3\]:* &* +@all`, `(~c0:s:* ~w\[3\]:s:* resetchannels -@all +get)`} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	if got := planOf(t, from, to, Options{Places: places}); got.Count(Keep) != 3 {
		t.Errorf("again: %s", actions(got))
	}
}

// TestOnlyWholeDatabases: a map of numbers renames no key, and beside a database without a
// prefix all is open already.
func TestOnlyWholeDatabases(t *testing.T) {
	words := []string{"~*", "%R~a", "~b"}
	if got := rewriteKeys(words, map[int]router.Place{0: {DB: 5}, 3: {DB: 7}}); !slices.Equal(got, words) {
		t.Errorf("numbers: %q", got)
	}
	r := Rules{Keys: rewriteKeys([]string{"~*"}, map[int]router.Place{0: {DB: 5}, 3: {DB: 7, Prefix: "c:"}})}
	if got := r.tidy().Keys; !slices.Equal(got, []string{"~*"}) {
		t.Errorf("with a prefix: %q", got)
	}
	if got := rewriteKeys(words, map[int]router.Place{}); got != nil {
		t.Errorf("nothing is mapped: %q", got)
	}
}

// TestChannelsOfOthers: what tells of a database that is not in the map, or of whichever there
// are, would tell of others' keys on the target.
func TestChannelsOfOthers(t *testing.T) {
	kept := []string{"&*", "&*:news", "&news", "&_", "&__keys", "&x__keyevent@3__:"}
	words := append(slices.Clone(kept), "&__keyspace@0__:a*", "&__keyevent@3__:set", "&__keyspace@4__:a*", "&__keyspace@99999999999999999999__:a")
	patterns := []string{"&__keyspace@*__:session:*", "&__key*@0__:a", "&__keyspace@[0-3]__:a", "&__keyspace@0?_:a", "&__keyspace@00__:a", "&__*", "&_*", `&__keyspace\@0__:a`}
	var e expressed
	got := e.channels(append(slices.Clone(words), patterns...), map[int]router.Place{0: {DB: 5}, 3: {DB: 7, Prefix: "c:"}})
	if want := append(slices.Clone(kept), "&__keyspace@5__:a*", "&__keyevent@7__:set"); !slices.Equal(got, want) {
		t.Errorf("channels: %q", got)
	}
	var lost []string
	for _, l := range e.lost {
		lost = append(lost, l.Rule)
	}
	if !slices.Equal(lost, patterns) {
		t.Errorf("lost: %q", e.lost)
	}
	if notes := strings.Join(e.notes, "\n"); len(e.notes) != 3 || !strings.Contains(notes, "database 4 is not in the map") {
		t.Errorf("the notes: %q", e.notes)
	}
	all := append(slices.Clone(words), patterns...)
	if got := new(expressed).channels(all, nil); !slices.Equal(got, all) {
		t.Errorf("without a map: %q", got)
	}
}

// TestChannelsOfADatabaseThatIsNotSeen: which databases a user may select does not limit of
// which ones it hears, and so they keep their numbers here too.
func TestChannelsOfADatabaseThatIsNotSeen(t *testing.T) {
	to := Server{Known: Known{Channels: true, Databases: true, HalfKeys: true}}
	var e expressed
	r := e.rules(Rules{Databases: []int{0}, Limited: true, Channels: []string{"&__keyspace@3__:a"}}, to.Catalog, to, map[int]router.Place{0: {DB: 5}, 3: {DB: 7}})
	if !slices.Equal(r.Channels, []string{"&__keyspace@7__:a"}) || !slices.Equal(r.Databases, []int{5}) || len(e.notes) != 0 {
		t.Errorf("%+v, %q", r, e.notes)
	}
}

// TestOthersAreNotHeard: on servers, what the source does not tell a user of is not told by the
// target either.
func TestOthersAreNotHeard(t *testing.T) {
	source := redistest.Start(t, redistest.WithACL("numbered on >pw resetchannels &__keyspace@5__:* &__keyspace@3__:* +@all", "any on >pw resetchannels &news &__keyspace@*__:session:* +@all"))
	target := redistest.Start(t)
	from, to := source.Client(0), target.Client(0)
	o := Options{Places: map[int]router.Place{3: {DB: 5, Prefix: "c0:"}}}
	p := planOf(t, from, to, o)
	if got := actions(p); got != "refuse any, leave default, create numbered" {
		t.Fatalf("the plan: %s\n%s", got, p.Text(80))
	}
	if lost := stepOf(t, p, "any").Lost; len(lost) != 1 || lost[0].Rule != "&__keyspace@*__:session:*" {
		t.Errorf("what any loses: %v", lost)
	}
	o.Weaker = true
	apply(t, to, planOf(t, from, to, o))
	for user, channels := range map[string]map[string]bool{
		"numbered": {"__keyspace@5__:x": false, "__keyspace@3__:x": false, "__keyspace@5__:c0:x": true},
		"any":      {"news": true, "__keyspace@0__:session:x": false, "__keyspace@5__:session:x": false},
	} {
		for channel, may := range channels {
			text, err := to.Do(t.Context(), "ACL", "DRYRUN", user, "SUBSCRIBE", channel).Text()
			if err != nil || may != (text == "OK") {
				t.Errorf("%s listens to %s: %s, %v", user, channel, text, err)
			}
		}
	}
}

// TestNothingHalf: when a rule is refused, or a watched key is written, no user is written.
func TestNothingHalf(t *testing.T) {
	source := redistest.Start(t, redistest.WithACL("a on >pw ~* +get", "b on >pw ~* +get"))
	target := redistest.Start(t)
	from, to := source.Client(0), target.Client(0)
	before := list(t, to)
	p := planOf(t, from, to, Options{})
	bad := p
	bad.Steps = slices.Clone(p.Steps)
	u := *bad.Steps[1].user
	u.Root.Commands = append(slices.Clone(u.Root.Commands), "+nosuch")
	bad.Steps[1].user = &u
	if err := (Writer{Client: to}).Apply(t.Context(), bad); err == nil || !strings.Contains(err.Error(), `"b"`) {
		t.Errorf("a rule that is refused: %v", err)
	}
	w := Writer{Client: to, Watch: []string{"key"}, May: func(ctx context.Context, _ *redis.Tx) error { return to.Set(ctx, "key", 1, 0).Err() }}
	if err := w.Apply(t.Context(), p); err != ErrMoved { //nolint:errorlint // nothing is around it
		t.Errorf("the key was written: %v", err)
	}
	no := fmt.Errorf("no")
	w.May = func(context.Context, *redis.Tx) error { return no }
	if err := w.Apply(t.Context(), p); err != no { //nolint:errorlint // nothing is around it
		t.Errorf("it may not: %v", err)
	}
	if diff := cmp.Diff(before, list(t, to)); diff != "" {
		t.Errorf("something was written:\n%s", diff)
	}
}

// TestReadBack tells of users that are otherwise than they were written.
func TestReadBack(t *testing.T) {
	source, target := redistest.Start(t, redistest.WithACL("a on >pw ~* +get", "b on >pw ~* +get")), redistest.Start(t)
	to := target.Client(0)
	p := planOf(t, source.Client(0), to, Options{})
	apply(t, to, p)
	if err := to.Do(t.Context(), "ACL", "SETUSER", "a", "+set", "~x", "nopass").Err(); err == nil {
		t.Fatal("all keys and one more")
	}
	for _, args := range [][]any{{"ACL", "SETUSER", "a", "+set", "nopass"}, {"ACL", "DELUSER", "b"}} {
		if err := to.Do(t.Context(), args...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	err := (Writer{Client: to}).readBack(t.Context(), p.writes(), p.to.Catalog)
	if err == nil || !strings.Contains(err.Error(), `"a" (state, passwords, commands), "b"`) {
		t.Errorf("%v", err)
	}
}
