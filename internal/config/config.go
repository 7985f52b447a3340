// Package config reads the TOML files of the programs into structs, strictly: an unknown key, a wrong type or an
// impossible value is an error with file, line and what to do.
package config

import "time"

// AMT is the [amt] table, the same in every program's file.
type AMT struct {
	User         string `toml:"user"`
	PasswordFile string `toml:"password_file"`
	PasswordEnv  string `toml:"password_env"`
	Port         string `toml:"port"` // "auto" or a number (TOML string or integer)
	TLS          bool   `toml:"tls"`
	TLSCA        string `toml:"tls_ca"`
	TLSPin       string `toml:"tls_pin"`
	Enterprise   string `toml:"enterprise"`
	URL          string `toml:"url"` // client only: LMS, or a simulated PC
}

// Dcmamtin is the [dcmamtin] table.
type Dcmamtin struct {
	Resolve string `toml:"resolve"` // "dns" or "file"
}

// Hardware is the [hardware] table of a client.
type Hardware struct {
	File string `toml:"file"`
}

// Client is samehost-client's file. Relative paths in any file are taken from the file's folder.
type Client struct {
	DataDir            string        `toml:"data_dir"`
	HigherSystem       string        `toml:"higher_system"`
	CAFile             string        `toml:"ca_file"`
	CAPin              string        `toml:"ca_pin"`
	EnrolmentTokenFile string        `toml:"enrolment_token_file"`
	RestoreWait        time.Duration `toml:"restore_wait"` // written "2m"
	AMT                AMT           `toml:"amt"`
	Hardware           Hardware      `toml:"hardware"`
}

// Manager is samehost-manager's file. dcmamtin reads it (or the relay's) too.
type Manager struct {
	DataDir  string   `toml:"data_dir"`
	Listen   string   `toml:"listen"`
	Database string   `toml:"database"`
	AMT      AMT      `toml:"amt"`
	Dcmamtin Dcmamtin `toml:"dcmamtin"`
}
