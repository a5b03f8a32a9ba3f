package server1

import (
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	server1v1 "github.com/handoff-auth/handoff/proto/handoff/server1/v1"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
)

// I11: neither a log that nobody reads, whether its reader has gone or stays, nor SIGHUP
// ends or holds up SERVER1.
func TestI11NobodyReadsTheLog(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	servingtest.Unread(t, asMain, arguments("serve", s.settings()), func(t *testing.T, address string) {
		conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewClientTLSFromCert(s.pool, "")))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, err = server1v1.NewSessionServiceClient(conn).GetSession(t.Context(), &server1v1.GetSessionRequest{})
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("SERVER1 answers %v", err)
		}
	})
}
