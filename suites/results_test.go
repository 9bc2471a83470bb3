package main

import (
	"strings"
	"testing"
)

func TestReadRedis(t *testing.T) {
	out := "\x1b[1;37;49mTesting unit/type/set\x1b[0m\n" +
		"[\x1b[0;32;49mok\x1b[0m]: SADD (1 ms)\n[ok]: SADD (2 ms)\n" +
		"[err]: SPOP (quick) in tests/unit/type/set.tcl\nExpected '0' to be equal to '1'\n" +
		"[ignore]: MIGRATE: Not supported on external server\n" +
		"*** [err]: SPOP (quick) in tests/unit/type/set.tcl\n"
	r := readRedis([]byte(out))
	for test, want := range map[string]outcome{
		"unit/type/set: SADD": passed, "unit/type/set: SADD (2)": passed, "unit/type/set: SPOP (quick)": failed,
		"unit/type/set: MIGRATE: Not supported on external server": skipped,
	} {
		if got := r.of(test); got != want {
			t.Errorf("%s: it %v, want it %v", test, got, want)
		}
	}
	if len(r.order) != 4 {
		t.Errorf("%d tests, want 4: %q", len(r.order), r.order)
	}
	if why := r.why["unit/type/set: SPOP (quick)"]; why != "Expected '0' to be equal to '1'" {
		t.Errorf("why: %q", why)
	}
}

func TestDifferences(t *testing.T) {
	var direct, through results
	for _, name := range []string{"same", "fails", "gone", "listed one", "listed two"} {
		direct.add("g", name, passed, "")
	}
	direct.add("g", "never passes", failed, "")
	through.add("g", "same", passed, "")
	through.add("g", "fails", failed, "no")
	through.add("g", "never passes", failed, "")
	through.add("g", "listed one", failed, "")
	through.add("g", "listed two", skipped, "")
	list, err := parseExceptions("x", "# words\nshared: g: listed one\ng: listed t*\n  because\n  of it\n")
	if err != nil {
		t.Fatal(err)
	}
	tell := func(mode string) string {
		var b strings.Builder
		for _, d := range differences(&direct, &through, list.of(mode)) {
			b.WriteString(d.test + "|" + d.through.String() + "|" + d.reason + "\n")
		}
		return b.String()
	}
	want := "g: fails|failed|\ng: gone|did not run|\ng: listed one|failed|because of it\ng: listed two|was skipped|because of it\n"
	if got := tell("shared"); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	want = strings.Replace(want, "g: listed one|failed|because of it", "g: listed one|failed|", 1)
	if got := tell("pinned"); got != want {
		t.Errorf("pinned: got\n%swant\n%s", got, want)
	}
}

// TestRacesAreTriedAgain: what is listed as a race is run again, as what is not listed is;
// another exception is not. When it never passes it is an exception still.
func TestRacesAreTriedAgain(t *testing.T) {
	list, err := parseExceptions("x", "race: a: now and then*\n  because\nrace: shared: b: here\nc: never\n  as well\n")
	if err != nil {
		t.Fatal(err)
	}
	var direct, through, again results
	for _, name := range []string{"a: now and then 1", "a: now and then 2", "b: here", "c: never", "d: unlisted"} {
		group, test, _ := strings.Cut(name, ": ")
		direct.add(group, test, passed, "")
		through.add(group, test, failed, "")
		how := passed
		if name == "a: now and then 2" {
			how = failed
		}
		again.add(group, test, how, "")
	}
	found := differences(&direct, &through, list.of("shared"))
	tests := undecided(found)
	if got := strings.Join(tests, "|"); got != "a: now and then 1|a: now and then 2|b: here|d: unlisted" {
		t.Errorf("run again: %s", got)
	}
	note(found, tests, &again)
	if got := strings.Join(undecided(found), "|"); got != "a: now and then 2" {
		t.Errorf("run a third time: %s", got)
	}
	if bad := printAll(found); bad != 0 {
		t.Errorf("%d differ for no reason", bad)
	}
	if got := undecided(differences(&direct, &through, list.of("pinned"))); len(got) != 4 {
		t.Errorf("pinned, run again: %v", got)
	}
}

func TestExceptionsNeedReasons(t *testing.T) {
	for _, text := range []string{"a: b\n", "  because\n", "a: b\n  because\nc: d\n"} {
		if list, err := parseExceptions("x", text); err == nil {
			t.Errorf("%q: no error, but %v", text, list)
		}
	}
	for _, s := range all {
		if _, err := readExceptions(s.name); err != nil {
			t.Error(err)
		}
	}
}

// TestLeftOut: what is not run is listed with its reason, is no exception of what is, and
// what the list says is what runtest is told.
func TestLeftOut(t *testing.T) {
	list, err := parseExceptions("x", "left out: unit/a: B with: c\n  because\nshared: unit/a: d\n  as well\n")
	if err != nil {
		t.Fatal(err)
	}
	if shared := list.of("shared"); len(shared) != 1 || shared[0].test != "unit/a: d" || len(list.of("pinned")) != 0 {
		t.Errorf("exceptions: %v and %v", shared, list.of("pinned"))
	}
	out := list.leftOut()
	if len(out) != 1 || out[0].test != "unit/a: B with: c" || out[0].reason != "because" {
		t.Fatalf("left out: %v", out)
	}
	if got := strings.Join(withoutRedis(out), "|"); got != "--skiptest|B with: c" {
		t.Errorf("runtest is told %s", got)
	}
	for _, s := range all {
		if s.name == "redis" {
			continue
		}
		if list, _ := readExceptions(s.name); len(list.leftOut()) > 0 {
			t.Errorf("the suite %s leaves nothing out by the list, but it says %v", s.name, list.leftOut())
		}
	}
}

func TestServerArguments(t *testing.T) {
	c, err := configOf(strings.Fields("run -d --network host --save '' --port 6380 --requirepass password --enable-debug-command yes --cluster-enabled yes"))
	if err != nil {
		t.Fatal(err)
	}
	if c.Port != 6380 || c.Password != "password" || len(c.Directives) != 1 || c.Directives[0][0] != "cluster-enabled" {
		t.Errorf("got %+v", c)
	}
}

func TestGroupsOfPytest(t *testing.T) {
	for in, want := range map[string]string{
		"tests.test_commands.TestACL":        "tests/test_commands.py TestACL",
		"tests.test_asyncio.test_lock":       "tests/test_asyncio/test_lock.py ",
		"tests.test_asyncio.test_lock.TestL": "tests/test_asyncio/test_lock.py TestL",
	} {
		if file, class := splitClass(in); file+" "+class != want {
			t.Errorf("%s: got %q, want %q", in, file+" "+class, want)
		}
	}
}
