# MariaDB and slurmdbd beside the cluster of cluster.sh, which sources this: data, socket and port
# are the cluster's own. Sets NO_ACCOUNTING to why there are none, or to nothing.
# shellcheck shell=bash disable=SC2154
start_accounting() {
  local program tables
  export NO_ACCOUNTING=""
  for program in mariadbd slurmdbd; do
    command -v $program >/dev/null || NO_ACCOUNTING="$program is not installed (mariadb-server-core, slurmdbd)"
  done
  tables=$(compgen -G '/usr/share/m*/m*_system_tables.sql')
  [[ -n $NO_ACCOUNTING || -n $tables ]] || NO_ACCOUNTING="MariaDB's mysql_system_tables.sql is not there"
  [[ -z $NO_ACCOUNTING ]] || return

  # As mariadb-install-db makes them, which needs the package of the clients.
  local database=(mariadbd --no-defaults --user=root --datadir="$run/db" --innodb-log-file-size=4M
    --innodb-buffer-pool-size=24M --innodb-flush-method=nosync --innodb-doublewrite=0)
  mkdir -p "$run/db/mysql"
  { echo "use mysql;" && cat "$tables"; } | "${database[@]}" --bootstrap >"$folder/log/mariadb.out" 2>&1
  export MYSQL_UNIX_PORT=$run/sql
  start mariadb "${database[@]}" --socket="$MYSQL_UNIX_PORT" --skip-networking --skip-grant-tables
  wait_for 120 test -S "$MYSQL_UNIX_PORT" || NO_ACCOUNTING="MariaDB does not start: $(said mariadb)"

  cat >>"$SLURM_CONF" <<EOF
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$1
AccountingStoragePass=$run/munge
EOF
  (umask 077 && cat >"$run/slurmdbd.conf") <<EOF
AuthType=auth/munge
AuthInfo=socket=$run/munge
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$1
SlurmUser=root
PidFile=$run/slurmdbd.pid
LogFile=$folder/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
EOF
  start slurmdbd slurmdbd -D
  wait_for 120 sacctmgr -n show cluster || NO_ACCOUNTING="slurmdbd does not start: $(said slurmdbd)"
  [[ -z $NO_ACCOUNTING ]] || sed -i '/^AccountingStorage/d' "$SLURM_CONF"
}
