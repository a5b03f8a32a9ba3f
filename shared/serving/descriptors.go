package serving

import (
	"fmt"
	"log/slog"
)

const (
	// ports is how many public listeners a server has at most, each with
	// Flags.MaxConnections of its own: gRPC, and pages.
	ports = 2
	// reserved is how many descriptors are left to files, stores and the calls that
	// the program makes.
	reserved = 256
)

// fitConnections returns how many connections a listener may have open: the
// setting, or what the process's limit of open files (RLIMIT_NOFILE) leaves of it.
// It is an error if that is too little to serve at all.
func fitConnections(most int, limit uint64, log *slog.Logger) (int, error) {
	if limit < reserved+ports*16 {
		return 0, &SettingError{"max-connections", fmt.Errorf(
			"cannot be held: the process may open %d files, and needs %d besides its connections (ulimit -n)", limit, reserved)}
	}
	room := (limit - reserved) / ports
	if uint64(most) <= room {
		return most, nil
	}
	log.Warn("fewer connections than --max-connections: the process may open too few files (ulimit -n)",
		"connections", room, "max_connections", most, "open_files", limit)
	return int(room), nil
}
