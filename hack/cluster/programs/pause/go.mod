module mom/cluster/pause

go 1.24

tool mom/cluster/pause
