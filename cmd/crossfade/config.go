package main

import (
	"context"

	"github.com/crossfade/crossfade/config"
)

func configVerb() *verb {
	return &verb{name: "config", short: "print the effective configuration, without secrets", run: printConfig, long: `
Prints what the other verbs would use: the defaults, over them the file of
--config, then CROSSFADE_… from the environment, then the flags. A password
shows as ***. What is printed is a configuration file again.`}
}

func printConfig(_ context.Context, s *session) error {
	f := s.flagsOf()
	example := f.set.Bool("example", false, "print a commented file with every setting at its default instead")
	c, err := f.parse()
	if err != nil {
		return err
	}
	if *example {
		_, err = s.stdout.Write(config.Example)
		return err
	}
	return c.Dump(s.stdout)
}
