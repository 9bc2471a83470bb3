package config

import (
	"fmt"
	"regexp"
	"strings"
)

const (
	envPrefix  = "CROSSFADE_"
	configEnv  = envPrefix + "CONFIG"
	configFlag = "config" // --config
)

// ownVariables belong to the program and are no settings of the tree.
var ownVariables = map[string]bool{configEnv: true, envPrefix + "FAILPOINT": true}

// kubernetes matches what it sets in every container of a namespace that has a
// service named crossfade or crossfade-…; a real key is looked up first.
var kubernetes = regexp.MustCompile(`^CROSSFADE_(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// readEnv reads the CROSSFADE_… variables of environ, whose entries are NAME=VALUE.
// An empty variable counts as not set, as compose files and unit files leave them.
func readEnv(t tree, environ []string) (layer, []error) {
	var problems []error
	byName, names := t.names(envName)
	found := layer{}
	for _, variable := range environ {
		name, text, _ := strings.Cut(variable, "=")
		if !strings.HasPrefix(name, envPrefix) || ownVariables[name] || text == "" {
			continue
		}
		k, known := byName[name]
		if !known {
			if !kubernetes.MatchString(name) {
				problems = append(problems, fmt.Errorf("%s: unknown variable: did you mean %s?", name, nearestVariable(name, names)))
			}
			continue
		}
		if before, there := found[k.path]; there && before.from != name && before.text != text {
			problems = append(problems, fmt.Errorf("%s and %s both set %s, to different values: keep one", before.from, name, k.path))
		}
		found[k.path] = given{text: text, from: name}
	}
	return found, problems
}

// nearestVariable compares what follows the prefix that they all have.
func nearestVariable(name string, names []string) string {
	rest := make([]string, len(names))
	for i, n := range names {
		rest[i] = strings.TrimPrefix(n, envPrefix)
	}
	return envPrefix + nearest(strings.TrimPrefix(name, envPrefix), rest)
}

// lookup returns a variable of environ, the last one as a process would see it.
func lookup(environ []string, name string) string {
	text := ""
	for _, variable := range environ {
		if value, is := strings.CutPrefix(variable, name+"="); is {
			text = value
		}
	}
	return text
}
