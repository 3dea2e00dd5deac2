from clpds.cli import main

main()
