#!/bin/sh
# A compiler launcher (CMAKE_CUDA_COMPILER_LAUNCHER): runs the command it is given and keeps what it
# printed beside the object it wrote, FILE.o.report, with the seconds it took as the last line. So
# that registers and spills of an object built earlier can be read without compiling it again.
out=
previous=
for argument; do
  [ "$previous" = -o ] && out=$argument
  previous=$argument
done
case $out in
  *.o) ;;
  *) exec "$@" ;;
esac
start=$(date +%s)
"$@" >"$out.report" 2>&1
code=$?
# ptxas' properties are for the report; warnings and errors are for people.
grep -vE '^ptxas info|^ +[0-9]+ bytes stack frame' "$out.report" >&2
echo "seconds $(($(date +%s) - start))" >>"$out.report"
exit $code
