package server

import "github.com/keyturn/keyturn/config"

// settingsNow are the settings in force.
func (s *Server) settingsNow() config.Config { return *s.config() }
