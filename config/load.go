package config

import (
	_ "embed" // the example
	"errors"
	"flag"
	"fmt"
	"net/url"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/v2"
)

// Example is a commented configuration file with every key at its default.
//
//go:embed example.yaml
var Example []byte

// Load reads the settings for a program that has no flags of its own: the defaults,
// then the file of --config or CROSSFADE_CONFIG, then the CROSSFADE_… variables of
// environ, then args. It returns what follows the flags. See Flags for the rest.
func Load(args, environ []string) (Config, []string, error) {
	flags := Bind(flag.NewFlagSet("", flag.ContinueOnError))
	rest, err := flags.Parse(args)
	if err != nil {
		return Default(), nil, err
	}
	c, err := flags.Load(environ)
	return c, rest, err
}

// Load puts the layers together, after Parse. It reads the configuration file and
// the token files. The error holds all problems, Validate's among them, and no
// secret; the configuration next to it is as far as it could be read.
func (f *Flags) Load(environ []string) (Config, error) {
	var problems []error
	var layers []layer
	name := f.file
	if name == "" {
		name = lookup(environ, configEnv)
	}
	if name != "" {
		file, more := readFile(f.tree, name)
		layers, problems = append(layers, file), append(problems, more...)
	}
	env, more := readEnv(f.tree, environ)
	layers, problems = append(layers, env, f.layer), append(problems, more...)

	c, more := merge(f.tree, layers)
	problems = append(problems, more...)
	for _, t := range []struct {
		key, file string
		token     *Secret
	}{{"admin.token_file", c.Admin.TokenFile, &c.Admin.Token}, {"admin.view_token_file", c.Admin.ViewTokenFile, &c.Admin.ViewToken}} {
		if *t.token != "" || t.file == "" {
			continue
		}
		token, err := readSecret(t.file)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", t.key, err))
			token = stars + Secret(t.key) // so that Validate does not call it missing as well
		}
		*t.token = token
	}
	if err := c.Validate(); err != nil {
		problems = append(problems, err)
	}
	return c, errors.Join(problems...)
}

// merge lays the layers over the defaults, the later over the earlier. A key is
// replaced as a whole, the database map too: half of a map from a file and half
// from a flag would be a map that nobody wrote.
func merge(t tree, layers []layer) (Config, []error) {
	var problems []error
	k := koanf.New(".")
	load := func(values map[string]any) {
		if err := k.Load(confmap.Provider(values, "."), nil); err != nil {
			problems = append(problems, fmt.Errorf("merging the configuration: %w", err))
		}
	}
	load(t.flat(Default()))
	for _, l := range layers {
		values, more := l.values(t)
		problems = append(problems, more...)
		load(values)
	}
	var c Config
	// The values have their types already; nothing is to be guessed.
	decoding := &mapstructure.DecoderConfig{ErrorUnused: true, ErrorUnset: true}
	if err := k.UnmarshalWithConf("", &c, koanf.UnmarshalConf{DecoderConfig: decoding}); err != nil {
		return Default(), append(problems, fmt.Errorf("merging the configuration: %w", err))
	}
	if len(c.Listen) == 0 {
		c.Listen = nil
	}
	if len(c.Fleet.Etcd.Endpoints) == 0 {
		c.Fleet.Etcd.Endpoints = nil
	}
	if len(c.Admin.Operators) == 0 {
		c.Admin.Operators = nil
	}
	if len(c.Proxy.ProxyProtocolFrom) == 0 {
		c.Proxy.ProxyProtocolFrom = nil
	}
	if len(c.Proxy.Credentials) == 0 {
		c.Proxy.Credentials = nil
	}
	if len(c.Proxy.Users) == 0 {
		c.Proxy.Users = nil
	}
	if len(c.Hooks) == 0 {
		c.Hooks = nil
	}
	if len(c.Sync.Schedule) == 0 {
		c.Sync.Schedule = nil
	}
	if len(c.Sync.Match) == 0 {
		c.Sync.Match = nil
	}
	if len(c.Sync.Types) == 0 {
		c.Sync.Types = nil
	}
	if len(c.Databases) == 0 {
		c.Databases = nil
	}
	if len(c.LeaveOut) == 0 {
		c.LeaveOut = nil
	}
	return c, problems
}

// secretFiles are keys of which the first beats the second.
var secretFiles = map[string]string{
	"source.password":          "source.password_file",
	"source.sentinel.password": "source.sentinel.password_file",
	"target.password":          "target.password_file",
	"target.sentinel.password": "target.sentinel.password_file",
	"fleet.etcd.password":      "fleet.etcd.password_file",
	"admin.token":              "admin.token_file",
	"admin.view_token":         "admin.view_token_file",
}

// values reads the texts of a layer.
func (l layer) values(t tree) (map[string]any, []error) {
	var problems []error
	values := map[string]any{}
	for _, k := range t.keys {
		written, there := l[k.path]
		if !there {
			continue
		}
		value, err := parseText(k.typ, written.text)
		if err != nil {
			place := written.from + ": " + k.path
			if written.from == "--"+k.path {
				place = written.from
			}
			if isRecords(k.typ) { // may hold secrets
				problems = append(problems, fmt.Errorf("%s: %w", place, err))
				continue
			}
			problems = append(problems, fmt.Errorf("%s: %q %w", place, brief(written.text), err))
			continue
		}
		values[k.path] = value
	}
	// A file named in this layer is meant to beat the secret of an earlier one.
	for secret, file := range secretFiles {
		_, hasSecret := values[secret]
		if name, hasFile := values[file]; hasFile && name != "" && !hasSecret {
			values[secret] = Secret("")
		}
	}
	for _, server := range []string{"source", "target"} {
		login(values, server)
	}
	return values, problems
}

// login has the user and the password in a layer's URL beat those of the layers before,
// which are another server's, as may be.
func login(values map[string]any, server string) {
	address, _ := values[server+".url"].(Secret)
	user, password := loginIn(string(address))
	without := func(key string, none any) {
		if _, there := values[server+"."+key]; !there {
			values[server+"."+key] = none
		}
	}
	if user {
		without("username", "")
	}
	if password {
		without("username", "")
		without("password", Secret(""))
		without("password_file", "")
	}
}

// loginIn reports whether a URL, which may be wrong, has a user and a password.
func loginIn(text string) (user, password bool) {
	_, plain := hostsOf(text) // of which there may be several
	u, err := url.Parse(plain)
	if err != nil || u.User == nil {
		return false, false
	}
	_, password = u.User.Password()
	return u.User.Username() != "", password
}
