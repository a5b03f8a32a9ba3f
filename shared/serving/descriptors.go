package serving

import (
	"log/slog"

	"github.com/handoff-auth/handoff/shared/internal/gate"
)

// fitConnections returns how many connections a listener may have open: the
// setting, or what the process's limit of open files (RLIMIT_NOFILE) leaves of it.
// It is an error if that is too little to serve at all.
func fitConnections(most int, limit uint64, log *slog.Logger) (int, error) {
	room, err := gate.Fit(most, limit)
	if err != nil {
		return 0, &SettingError{"max-connections", err}
	}
	if room < most {
		log.Warn("fewer connections than --max-connections: the process may open too few files (ulimit -n)",
			"connections", room, "max_connections", most, "open_files", limit)
	}
	return room, nil
}
