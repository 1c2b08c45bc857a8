package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/config"
)

// configCommands are the verbs of keyturn config.
type configCommands struct{ *app }

func (c configCommands) root() *cobra.Command {
	return noun("config", "Check and show the configuration", c.validate(), c.show())
}

func (c configCommands) validate() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "validate",
		Short: "List every problem of the configuration of serve",
		Args:  cobra.NoArgs,
	}
	addSettings(cmd.Flags(), config.ScopeServe)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		set, err := c.readSettings(cmd.Flags(), true)
		if err != nil {
			return err
		}
		problems := admin.ServeProblems(cmd.Context(), set.Config, set.place)
		if problems = append(problems, admin.PortProblems(cmd.Context(), set.Config)...); len(problems) > 0 {
			return set.wrong(problems)
		}
		for _, w := range set.Warnings() {
			c.say("keyturn: warning: %v", w)
		}
		c.say("the configuration is valid")
		warnings := set.Warnings()
		if warnings == nil {
			warnings = []config.Warning{}
		}
		return c.print(map[string]any{"valid": true, "warnings": warnings}, func() {})
	}
	return cmd
}

// shownSetting is one setting in the output of config show.
type shownSetting struct {
	Key    string `json:"key"`
	Value  any    `json:"value"`
	Origin string `json:"origin"`
	Reload bool   `json:"reload"` // it may change while the server runs
	// Connection is the full target of a postgres:// URL, with every default. The environment does not change it.
	Connection any `json:"connection,omitempty"`
}

func (c configCommands) show() *cobra.Command {
	var origin bool
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Print the configuration of serve, without secrets",
		Args:  cobra.NoArgs,
	}
	addSettings(cmd.Flags(), config.ScopeServe)
	cmd.Flags().BoolVar(&origin, "origin", false, "also print the source of each setting")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		set, err := c.readSettings(cmd.Flags(), false)
		if err != nil {
			return err
		}
		shown := set.shown()
		return c.print(shown, func() {
			for _, s := range shown {
				c.printSetting(s, origin)
			}
		})
	}
	return cmd
}

// shown lists all settings without secrets.
func (s settings) shown() (shown []shownSetting) {
	for _, setting := range config.Settings {
		one := shownSetting{
			Key:    setting.Key,
			Value:  setting.Value(s.Config),
			Origin: s.origins[setting.Key],
			Reload: setting.Reload,
		}
		if one.Origin == "" {
			one.Origin = "default"
		}
		if one.Key == "database" {
			one.Value = s.place.Database.String()
			if target, ok := s.place.Database.Target(); ok {
				one.Connection = &target
			}
		}
		shown = append(shown, one)
	}
	return shown
}

func (c configCommands) printSetting(s shownSetting, origin bool) {
	line := yamlLine(s.Key, s.Value)
	if origin {
		line = fmt.Sprintf("%-50s # %s", line, s.Origin)
	}
	fmt.Fprintln(c.stdout, line)
	if s.Connection != nil {
		fmt.Fprintf(c.stdout, "# it connects to %v\n", s.Connection)
	}
}

// yamlLine is a setting as a line of a configuration file.
func yamlLine(key string, value any) string {
	if list, ok := value.(config.List); ok {
		value = strings.Join(list, ",")
	}
	text, _ := yaml.Marshal(map[string]any{key: value})
	return strings.TrimRight(string(text), "\n")
}
